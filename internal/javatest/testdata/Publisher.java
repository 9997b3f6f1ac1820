import com.rabbitmq.stream.Address;
import com.rabbitmq.stream.Environment;
import com.rabbitmq.stream.Producer;
import com.rabbitmq.stream.ProducerBuilder;
import com.rabbitmq.stream.compression.Compression;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Publishes keyed messages to a super stream. Its arguments are the broker's URI, the super
 * stream, a file of keys (base64, one a line), how many messages of each key a round has, and how
 * many messages a sub-batch has (1: none). Says "ready", then publishes a round for each line that
 * it reads, and says "confirmed" when the broker has confirmed that round. A message's subject is
 * its key, and its body is "java" and how many of the key came before it.
 */
public class Publisher {

  private static final long PATIENCE_SECONDS = 60;

  public static void main(String[] args) throws Exception {
    URI uri = URI.create(args[0]);
    List<String> keys = new ArrayList<>();
    for (String line : Files.readAllLines(Path.of(args[2]))) {
      keys.add(new String(Base64.getDecoder().decode(line), StandardCharsets.UTF_8));
    }
    int each = Integer.parseInt(args[3]);
    int subEntries = Integer.parseInt(args[4]);
    try (Environment environment =
            Environment.builder()
                .uri(args[0])
                .addressResolver(advertised -> new Address(uri.getHost(), uri.getPort()))
                .build();
        Producer producer = producer(environment, args[1], subEntries);
        BufferedReader rounds = new BufferedReader(new InputStreamReader(System.in))) {
      System.out.println("ready");
      for (int first = 0; rounds.readLine() != null; first += each) {
        publish(producer, keys, first, each);
        System.out.println("confirmed");
      }
    }
  }

  private static Producer producer(Environment environment, String superStream, int subEntries) {
    ProducerBuilder builder =
        environment
            .producerBuilder()
            .superStream(superStream)
            .routing(message -> message.getProperties().getSubject())
            .producerBuilder();
    if (subEntries > 1) {
      builder.subEntrySize(subEntries).compression(Compression.GZIP);
    }
    return builder.build();
  }

  private static void publish(Producer producer, List<String> keys, int first, int each)
      throws InterruptedException {
    CountDownLatch confirms = new CountDownLatch(each * keys.size());
    for (int i = first; i < first + each; i++) {
      for (String key : keys) {
        producer.send(
            producer
                .messageBuilder()
                .properties()
                .subject(key)
                .messageBuilder()
                .addData(("java " + i).getBytes(StandardCharsets.UTF_8))
                .build(),
            status -> {
              if (!status.isConfirmed()) {
                System.err.println("not confirmed: code " + status.getCode());
                System.exit(1);
              }
              confirms.countDown();
            });
      }
    }
    if (!confirms.await(PATIENCE_SECONDS, TimeUnit.SECONDS)) {
      System.err.println("messages without a confirmation: " + confirms.getCount());
      System.exit(1);
    }
  }
}
