// Java's own client: java Client.java URL TOKEN QUESTION. As it comes, it offers HTTP/2 with each
// request, and says of an opening handshake that its body has no bytes.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.io.PrintStream;

public class Client {
  static final BlockingQueue<String> heard = new LinkedBlockingQueue<>();

  static class Listener implements WebSocket.Listener {
    private final StringBuilder text = new StringBuilder();

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean last) {
      text.append(data);
      if (last) {
        heard.add(text.toString());
        text.setLength(0);
      }
      socket.request(1);
      return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
      heard.add("closed " + code);
      return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
      heard.add("error " + error);
    }
  }

  static String hear(String type) throws Exception {
    String message = heard.poll(30, TimeUnit.SECONDS);
    if (message == null || !message.contains(type)) throw new Exception(type + ": " + message);
    return message;
  }

  public static void main(String[] arguments) throws Exception {
    String url = arguments[0], token = arguments[1], question = arguments[2];
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    HttpClient client = HttpClient.newHttpClient();
    HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url.replace("ws://", "http://")
        .replace("/ws", "/site")));
    HttpResponse.BodyHandler<String> text = HttpResponse.BodyHandlers.ofString();
    HttpRequest post = request.POST(HttpRequest.BodyPublishers.ofString(question)).build();
    out.println(client.send(post, text).body());
    out.println(client.send(request.GET().build(), text).body().strip());
    WebSocket socket = client.newWebSocketBuilder().subprotocols("trioserver.v1")
        .buildAsync(URI.create(url), new Listener()).get(30, TimeUnit.SECONDS);
    hear("\"hello\"");
    socket.sendText("{\"type\":\"auth\",\"token\":\"" + token + "\"}", true).get();
    hear("\"ready\"");
    socket.sendText("{\"type\":\"echo\",\"id\":1,", false).get();  // in two fragments
    socket.sendText("\"data\":\"" + question + "\"}", true).get();
    String answer = hear("\"ack\"").replaceAll(".*\"data\":\"([^\"]*)\".*", "$1");
    socket.sendClose(WebSocket.NORMAL_CLOSURE, "").get();
    out.println(answer + " | " + hear("closed").substring(7));
  }
}
