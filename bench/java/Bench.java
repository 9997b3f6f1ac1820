import com.rabbitmq.stream.Address;
import com.rabbitmq.stream.Constants;
import com.rabbitmq.stream.ConfirmationHandler;
import com.rabbitmq.stream.ConfirmationStatus;
import com.rabbitmq.stream.Consumer;
import com.rabbitmq.stream.Environment;
import com.rabbitmq.stream.Message;
import com.rabbitmq.stream.OffsetSpecification;
import com.rabbitmq.stream.Producer;
import com.sun.management.OperatingSystemMXBean;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.net.URI;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.locks.LockSupport;

/**
 * Makes one measurement of RabbitMQ's Java client, with the client's defaults. java.go starts it.
 *
 * <p>The arguments are what to measure, the stream, how many messages, how many in each round of
 * the warm-up, how many producers, and how many messages a second "latency" publishes. The first line
 * of stdin is the broker's URI, each line after it a body (base64), up to an empty line. The process
 * ends when stdin does. The answer is a line of JSON on stdout.
 *
 * <p>The warm-up is the same work, in rounds: what is called once only is compiled for where it is
 * at that time. Each round has connections of its own. What is measured has new ones, as every other
 * implementation has, and begins after a garbage collection.
 */
public class Bench {

  private static final int WARM_UP_ROUNDS = 3;

  private final String what;
  private final String stream;
  private final int producers;
  private final int rate;
  private final String uri;
  private final List<byte[]> bodies = new ArrayList<>();

  /** How many messages were published, the warm-up's among them. */
  private long published;

  public static void main(String[] args) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
    Bench bench = new Bench(args, in);
    endWith(in);
    int n = Integer.parseInt(args[2]);
    int warmUp = Integer.parseInt(args[3]);
    for (int round = 0; round < WARM_UP_ROUNDS; round++) {
      bench.warmUp(n, warmUp);
    }
    System.gc();
    long before = bench.published;
    Sample sample = bench.measure(bench.what, n);
    System.out.println(sample.json(before));
    System.out.flush();
    System.exit(0);
  }

  private Bench(String[] args, BufferedReader in) throws IOException {
    what = args[0];
    stream = args[1];
    producers = Integer.parseInt(args[4]);
    rate = Integer.parseInt(args[5]);
    uri = in.readLine();
    for (String line = in.readLine(); line != null && !line.isEmpty(); line = in.readLine()) {
      bodies.add(Base64.getDecoder().decode(line));
    }
  }

  /** Ends this process when its parent has gone. */
  private static void endWith(BufferedReader in) {
    Thread watch =
        new Thread(
            () -> {
              try {
                while (in.readLine() != null) {}
              } catch (IOException e) {
                // The parent has gone too.
              }
              Runtime.getRuntime().halt(1);
            });
    watch.setDaemon(true);
    watch.start();
  }

  /** Makes a round. Before latencies it publishes, for they alone would take too long. */
  private void warmUp(int n, int warmUp) throws Exception {
    switch (what) {
      case "consume":
        measure(what, Math.min(n, warmUp));
        break;
      case "publish":
        measure(what, warmUp);
        break;
      default:
        measure("publish", warmUp);
        measure(what, n);
    }
  }

  private Sample measure(String what, int n) throws Exception {
    URI at = URI.create(uri);
    try (Environment environment =
        Environment.builder()
            .uri(uri)
            .addressResolver(advertised -> new Address(at.getHost(), at.getPort()))
            .build()) {
      return what.equals("consume") ? consume(environment, n) : publish(environment, what, n);
    }
  }

  private Sample publish(Environment environment, String what, int n) throws Exception {
    Sample sample = new Sample();
    List<Producer> all = new ArrayList<>();
    long began = System.nanoTime();
    for (int i = 0; i < producers; i++) {
      all.add(environment.producerBuilder().stream(stream).build());
    }
    sample.made = (System.nanoTime() - began) / 1e9;
    List<List<Message>> messages = new ArrayList<>();
    for (Producer producer : all) {
      messages.add(messages(producer));
    }
    int each = Math.max(1, n / producers);
    sample.n = each * producers;
    switch (what) {
      case "publish":
        publishAll(sample, all, messages, each);
        break;
      case "one":
        publishOne(sample, all.get(0), messages.get(0));
        break;
      case "latency":
        publishPaced(sample, all.get(0), messages.get(0));
        break;
      default:
        throw new IllegalArgumentException(what);
    }
    published += sample.n;
    for (Producer producer : all) {
      producer.close();
    }
    return sample;
  }

  private List<Message> messages(Producer producer) {
    List<Message> list = new ArrayList<>();
    for (byte[] body : bodies) {
      list.add(producer.messageBuilder().addData(body).build());
    }
    return list;
  }

  /** Publishes with each producer on a thread of its own, and waits for all confirms. */
  private static void publishAll(
      Sample sample, List<Producer> producers, List<List<Message>> messages, int each)
      throws Exception {
    ExecutorService threads = Executors.newFixedThreadPool(producers.size());
    List<Future<?>> ends = new ArrayList<>();
    sample.begin();
    for (int i = 0; i < producers.size(); i++) {
      Producer producer = producers.get(i);
      List<Message> list = messages.get(i);
      ends.add(threads.submit(() -> sendAll(producer, list, each)));
    }
    for (Future<?> end : ends) {
      end.get();
    }
    sample.end();
    threads.shutdown();
  }

  private static Void sendAll(Producer producer, List<Message> messages, int n)
      throws InterruptedException {
    CountDownLatch confirms = new CountDownLatch(n);
    ConfirmationHandler count =
        status -> {
          check(status);
          confirms.countDown();
        };
    int ring = messages.size();
    for (int i = 0; i < n; i++) {
      producer.send(messages.get(i % ring), count);
    }
    confirms.await();
    return null;
  }

  private static void publishOne(Sample sample, Producer producer, List<Message> messages)
      throws InterruptedException {
    Semaphore confirmed = new Semaphore(0);
    ConfirmationHandler release =
        status -> {
          check(status);
          confirmed.release();
        };
    sample.latencies = new double[sample.n];
    sample.begin();
    for (int i = 0; i < sample.n; i++) {
      long begin = System.nanoTime();
      producer.send(messages.get(i % messages.size()), release);
      confirmed.acquire();
      sample.latencies[i] = (System.nanoTime() - begin) / 1e6;
    }
    sample.end();
  }

  /** Publishes at a rate. From when a message counts is as in publish_latency.go. */
  private void publishPaced(Sample sample, Producer producer, List<Message> messages)
      throws InterruptedException {
    CountDownLatch confirms = new CountDownLatch(sample.n);
    double[] latencies = new double[sample.n];
    sample.begin();
    long first = System.nanoTime();
    long called = first;
    long returned = first;
    for (int i = 0; i < sample.n; i++) {
      long due = first + i * 1_000_000_000L / rate;
      for (long left = due - System.nanoTime(); left > 0; left = due - System.nanoTime()) {
        LockSupport.parkNanos(left);
      }
      long now = System.nanoTime();
      long start = due - called > 0 && returned - due > 0 ? due : now;
      int k = i;
      called = now;
      producer.send(
          messages.get(i % messages.size()),
          status -> {
            check(status);
            latencies[k] = (System.nanoTime() - start) / 1e6;
            confirms.countDown();
          });
      returned = System.nanoTime();
    }
    confirms.await();
    sample.end();
    sample.latencies = latencies;
  }

  /** Reads from the first message of the stream on. Time counts from the first one handled. */
  private Sample consume(Environment environment, int n) throws InterruptedException {
    Sample sample = new Sample();
    sample.n = n;
    CountDownLatch all = new CountDownLatch(1);
    int[] handled = {0};
    try (Consumer consumer =
        environment.consumerBuilder().stream(stream)
            .offset(OffsetSpecification.first())
            .messageHandler(
                (context, message) -> {
                  if (++handled[0] == 1) {
                    sample.begin();
                  }
                  if (handled[0] == n) {
                    sample.end();
                    all.countDown();
                  }
                })
            .build()) {
      all.await();
    }
    return sample;
  }

  private static void check(ConfirmationStatus status) {
    if (!status.isConfirmed()) {
      System.err.println(
          "a message is not confirmed: "
              + (status.getCode() == Constants.CODE_PUBLISH_CONFIRM_TIMEOUT
                  ? "the client's own time limit"
                  : "code " + status.getCode()));
      Runtime.getRuntime().halt(1);
    }
  }

  /** Counts time, and CPU time of the whole process: its compiler and garbage collector included. */
  private static class Sample {
    private static final OperatingSystemMXBean SYSTEM =
        (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private int n;
    private long at;
    private long cpu;
    private double seconds;
    private double made;
    private double[] latencies = {};

    private void begin() {
      cpu = SYSTEM.getProcessCpuTime();
      at = System.nanoTime();
    }

    private void end() {
      seconds = (System.nanoTime() - at) / 1e9;
      cpu = SYSTEM.getProcessCpuTime() - cpu;
    }

    private String json(long before) {
      return "{\"n\":" + n + ",\"warm_up\":" + before + ",\"seconds\":" + seconds + ",\"cpu_ns\":" + cpu
          + ",\"made_s\":" + made + ",\"latencies_ms\":" + Arrays.toString(latencies) + "}";
    }
  }
}
