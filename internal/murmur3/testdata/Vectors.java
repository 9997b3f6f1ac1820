// Writes java-hashes.bin, by the Java client's own code. Its jar, and those it
// needs, are on CLASSPATH (Maven: com.rabbitmq:stream-client:1.2.0):
//
//   MURMUR3_KEYS=/tmp/keys.bin go test -run TestJava ./internal/murmur3
//   javac -d /tmp/out internal/murmur3/testdata/Vectors.java
//   java -cp /tmp/out:$CLASSPATH com.rabbitmq.stream.impl.Vectors /tmp/keys.bin internal/murmur3/testdata/java-hashes.bin
//
// The package is the client's, because its hash is visible there alone.
package com.rabbitmq.stream.impl;

import com.rabbitmq.stream.Message;
import com.rabbitmq.stream.RoutingStrategy;
import com.rabbitmq.stream.codec.SimpleCodec;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.util.*;

public class Vectors {

  private static String key;

  public static void main(String[] args) throws Exception {
    RoutingStrategy strategy = new HashRoutingStrategy(m -> key, HashUtils.MURMUR3);
    Message message = new SimpleCodec().messageBuilder().addData(new byte[0]).build();
    try (DataInputStream in = new DataInputStream(new BufferedInputStream(new FileInputStream(args[0])));
        DataOutputStream out = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(args[1])))) {
      while (in.available() > 0) {
        byte[] bytes = new byte[in.readInt()];
        in.readFully(bytes);
        key = new String(bytes, StandardCharsets.UTF_8);
        int hash = HashUtils.MURMUR3.applyAsInt(key);
        for (int n : new int[] {1, 2, 3, 7, 100, 1000}) { // what producers do with it
          String want = Integer.toString(Integer.remainderUnsigned(hash, n));
          List<String> route = strategy.route(message, new Partitions(n));
          if (!route.equals(Collections.singletonList(want))) {
            throw new IllegalStateException(key + " of " + n + " goes to " + route + ", not to " + want);
          }
        }
        out.writeInt(hash);
      }
    }
  }

  private static class Partitions implements RoutingStrategy.Metadata {

    private final List<String> names = new ArrayList<>();

    Partitions(int n) {
      for (int i = 0; i < n; i++) names.add(Integer.toString(i));
    }

    @Override
    public List<String> partitions() {
      return names;
    }

    @Override
    public List<String> route(String routingKey) {
      return names;
    }
  }
}
