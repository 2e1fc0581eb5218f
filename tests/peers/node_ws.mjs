// Node's `ws` as a puppet: commands come as JSON lines, answers and events leave as JSON lines. Payloads are base64.
import readline from "node:readline";
import WebSocket from "ws";

const tell = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const bytes = (base64) => Buffer.from(base64, "base64");
let socket;

const commands = {
  open({ url, subprotocols }) {
    socket = new WebSocket(url, subprotocols);
    socket.on("open", () => tell({ event: "open", subprotocol: socket.protocol, extensions: socket.extensions }));
    socket.on("message", (data, binary) => tell({ event: "message", binary, data: data.toString("base64") }));
    socket.on("pong", (data) => tell({ event: "pong", data: data.toString("base64") }));
    socket.on("close", (code, reason) => tell({ event: "close", code, reason: reason.toString() }));
    socket.on("error", (error) => tell({ event: "error", message: error.message }));
  },
  send({ data, binary, fin }) {
    socket.send(bytes(data), { binary, fin });
  },
  ping({ data }) {
    socket.ping(bytes(data));
  },
  close({ code, reason }) {
    socket.close(code, reason);
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line);
  commands[command](rest);
}
socket?.terminate();
