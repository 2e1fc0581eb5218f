import { defineConfig } from "vite";

export default defineConfig({
  // The gateway's policy takes scripts and styles from its own address only: nothing is inlined.
  build: { target: "es2022", modulePreload: { polyfill: false }, assetsInlineLimit: 0, cssCodeSplit: false },
});
