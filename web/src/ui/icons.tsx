/** Line icons, 20 units square, drawn in the colour of the text beside them. */

import type { JSX } from "preact";

const PATHS = {
  plus: "M10 4v12M4 10h12",
  menu: "M3 6h14M3 10h14M3 14h14",
  close: "M5 5l10 10M15 5L5 15",
  send: "M10 16V4M5 9l5-5 5 5",
  copy: "M7 7V4h9v9h-3M4 7h9v9H4z",
  check: "M4 10.5l4 4 8-9",
  retry: "M15.5 8A6 6 0 1 0 16 11M16 4v4h-4",
  more: "M5 4l6 6-6 6M11 4l6 6-6 6",
  edit: "M4 16l1-4 8.500-8.500 3 3L8 15zM12 5l3 3",
  trash: "M4 6h12M8 6V4h4v2M5.500 6l.700 10h7.600l.700-10M8.500 9v4.500M11.500 9v4.500",
  sun: "M10 6.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM10 2v1.500M10 16.500V18M2 10h1.500M16.500 10H18M4.300 4.300l1.100 1.100M14.600 14.600l1.100 1.100M4.300 15.700l1.100-1.100M14.600 5.400l1.100-1.100",
  moon: "M16 11.500A6.500 6.500 0 0 1 8.500 4 6.500 6.500 0 1 0 16 11.500z",
  auto: "M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14",
  down: "M10 4v12M5 11l5 5 5-5",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  out: "M8 4H4v12h4M8 10h8M13 7l3 3-3 3",
  alert: "M10 6.500v4.500M10 13.500v.100M10 3l7.500 13.500h-15z",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Mark(): JSX.Element {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <path class="mark-front" d="M6 4h14a4 4 0 0 1 4 4v7a4 4 0 0 1-4 4h-7l-6 5v-5H6a4 4 0 0 1-4-4V8a4 4 0 0 1 4-4z" />
      <path
        class="mark-back"
        d="M26.500 12.500A4 4 0 0 1 30 16.500V22a4 4 0 0 1-4 4v4l-5-4h-6a4 4 0 0 1-3.800-2.800l2.300-1.700H20a6.500 6.500 0 0 0 6.500-6.500z"
      />
    </svg>
  );
}

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick: () => void;
  class?: string;
  disabled?: boolean;
  expanded?: boolean;
}

export function IconButton({ icon, label, onClick, class: extra = "", disabled = false, expanded }: IconButtonProps): JSX.Element {
  return (
    <button
      type="button"
      class={`icon-button ${extra}`}
      aria-label={label}
      title={label}
      disabled={disabled}
      aria-expanded={expanded}
      onClick={onClick}
    >
      <Icon name={icon} />
    </button>
  );
}
