// A server and a client of Java: `serve PORT FILE`, `fetch URL [METHOD PATH BYTES]...`, `load URL CONNECTIONS EACH`.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.stream.Stream;

final class Peer {
    static final byte[] LINE = "HTTP/1.1 500 Not a head\r\n\r\n".getBytes();
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static Path file;

    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "serve" -> serve(Integer.parseInt(arguments[1]), Path.of(arguments[2]));
            case "fetch" -> fetch(arguments);
            default -> load(arguments[1], Integer.parseInt(arguments[2]), Integer.parseInt(arguments[3]));
        }
    }

    static void serve(int port, Path large) throws IOException {
        file = large;
        for (String host : new String[] {"127.0.0.1", "::1"}) {
            HttpServer server = HttpServer.create(new InetSocketAddress(host, port), 128);
            server.createContext("/", Peer::answer);
            server.setExecutor(Executors.newCachedThreadPool());
            server.start();
        }
    }

    static void text(HttpExchange exchange, int status, String body) throws IOException {
        boolean isBodiless = body.isEmpty() || exchange.getRequestMethod().equals("HEAD");
        // The head is a segment of its own.
        exchange.sendResponseHeaders(status, isBodiless ? -1 : body.length());
        if (!isBodiless) {
            exchange.getResponseBody().write(body.getBytes());
        }
    }

    static void answer(HttpExchange exchange) throws IOException {
        // A client that asked for it but is not told sends its next request into a connection that ends.
        if ("close".equals(exchange.getRequestHeaders().getFirst("Connection"))) {
            exchange.getResponseHeaders().set("Connection", "close");
        }
        try (exchange) {
            switch (exchange.getRequestURI().getPath()) {
                case "/hello", "/parts" -> text(exchange, 200, "hello\n");
                case "/empty" -> text(exchange, 200, "");
                case "/none" -> text(exchange, 204, "");
                case "/cached" -> text(exchange, 304, "");
                case "/large" -> {
                    boolean isHead = exchange.getRequestMethod().equals("HEAD");
                    exchange.sendResponseHeaders(200, isHead ? -1 : Files.size(file));
                    if (!isHead) {
                        Files.copy(file, exchange.getResponseBody());
                    }
                }
                case "/lines" -> {
                    exchange.sendResponseHeaders(200, 0);
                    OutputStream out = exchange.getResponseBody();
                    for (int i = 0; i < 20; i++) {
                        out.write(LINE);
                        out.flush();
                    }
                }
                case "/upload" -> text(exchange, 200, exchange.getRequestBody().readAllBytes().length + "\n");
                case "/limited" -> {
                    exchange.getRequestBody().readAllBytes();
                    text(exchange, 413, "");
                }
                case "/error" -> text(exchange, 500, "error\n");
                case "/slow" -> {
                    Thread.sleep(300);
                    text(exchange, 200, "late\n");
                }
                default -> text(exchange, 404, "missing\n");
            }
        } catch (InterruptedException exception) {
            throw new IOException(exception);
        }
    }

    /** One after the other. Less than no bytes is a body of unknown length. */
    static void fetch(String[] words) throws Exception {
        for (int i = 2; i < words.length; i += 3) {
            int bytes = Integer.parseInt(words[i + 2]);
            byte[] content = "x".repeat(Math.abs(bytes)).getBytes();
            BodyPublisher body =
                    bytes == 0 ? BodyPublishers.noBody()
                    : bytes > 0 ? BodyPublishers.ofByteArray(content)
                    : BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(content));
            URI uri = URI.create(words[1] + words[i + 1]);
            HttpRequest request = HttpRequest.newBuilder(uri).method(words[i], body).build();
            System.out.println(CLIENT.send(request, BodyHandlers.discarding()).statusCode());
        }
    }

    static void load(String url, int connections, int each) throws Exception {
        var pool = Executors.newFixedThreadPool(connections);
        HttpRequest request = HttpRequest.newBuilder(URI.create(url + "/hello")).build();
        Callable<Long> one = () -> {
            long done = 0;
            for (int i = 0; i < each; i++) {
                done += CLIENT.send(request, BodyHandlers.discarding()).statusCode() == 200 ? 1 : 0;
            }
            return done;
        };
        long done = 0;
        for (var future : pool.invokeAll(Stream.generate(() -> one).limit(connections).toList())) {
            done += future.get();
        }
        System.out.println(done);
        pool.shutdown();
    }
}
