// What each client with the interface of browsers says and hears: it opens, authenticates, asks
// and closes. Resolves to "ANSWER | CODE". Chromium is given this function as text.
export function converse(WebSocket, url, token, question) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, ["trioserver.v1"]);
    let answer = "nothing";
    socket.addEventListener("error", (event) => reject(new Error(event.message || "error")));
    socket.addEventListener("close", (event) => resolve(`${answer} | ${event.code}`));
    socket.addEventListener("message", (event) => {
      const message = JSON.parse(event.data);
      if (message.type === "hello") socket.send(JSON.stringify({ type: "auth", token }));
      if (message.type === "ready")
        socket.send(JSON.stringify({ type: "echo", id: 1, data: question }));
      if (message.type === "ack") {
        answer = message.data;
        socket.close(1000);
      }
    });
  });
}
