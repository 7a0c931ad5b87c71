import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;
import org.msgpack.core.MessageBufferPacker;
import org.msgpack.core.MessagePack;
import org.msgpack.core.MessageUnpacker;

/**
 * The ledger job on Kafka Streams, exactly once, with its defaults: a RocksDB store behind a cache, and a changelog.
 *
 * <p>Options: --brokers, --name, --directory, --threads, --commit-interval-ms. SIGTERM stops it, with status 0.
 */
public final class Ledger {
    private static final String STORE = "balances";
    private static final Duration STOP_TIMEOUT = Duration.ofSeconds(25);

    private Ledger() {}

    /** Runs until SIGTERM, or until a thread fails: then the exit code is 1. */
    public static void main(String[] arguments) throws InterruptedException {
        Map<String, String> options = new HashMap<>();
        for (int at = 0; at < arguments.length; at += 2) {
            options.put(arguments[at], arguments[at + 1]);
        }
        KafkaStreams streams = new KafkaStreams(topology(options.get("--name")), settings(options));
        CountDownLatch ended = new CountDownLatch(1);
        AtomicBoolean failed = new AtomicBoolean();
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            failed.set(true);
            ended.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            boolean closed = streams.close(STOP_TIMEOUT);
            // After SIGTERM, Java would exit with 143.
            Runtime.getRuntime().halt(closed && !failed.get() ? 0 : 1);
        }));
        streams.start();
        ended.await();
        System.exit(1);
    }

    private static Properties settings(Map<String, String> options) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, options.get("--name"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("--brokers"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, options.get("--directory"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, options.get("--threads"));
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        String interval = options.get("--commit-interval-ms");
        if (interval != null) {
            settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, interval);
        }
        return settings;
    }

    private static Topology topology(String name) {
        // The DSL would have a cache by default; the Processor API has to ask for it.
        var balances = Stores.keyValueStoreBuilder(
                        Stores.persistentKeyValueStore(STORE), Serdes.ByteArray(), Serdes.Long())
                .withCachingEnabled();
        return new Topology()
                .addSource("commands", new ByteArrayDeserializer(), new ByteArrayDeserializer(),
                        name + ".account.commands")
                .addProcessor("account", Account::new, "commands")
                .addStateStore(balances, "account")
                .addSink("events", name + ".account.events", new ByteArraySerializer(), new ByteArraySerializer(),
                        "account");
    }

    /** Adds deposits to the balances of one partition, and forwards an event for each. */
    private static final class Account implements Processor<byte[], byte[], byte[], byte[]> {
        private final MessageBufferPacker packer = MessagePack.newDefaultBufferPacker();
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<byte[], Long> balances;

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            this.balances = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<byte[], byte[]> command) {
            try {
                long amount = amountOf(command.value());
                Long before = balances.get(command.key());
                long balance = (before == null ? 0 : before) + amount;
                balances.put(command.key(), balance);
                // The record keeps its headers; the default partitioner puts it by its key.
                context.forward(command.withValue(deposited(amount, balance)));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        private static long amountOf(byte[] value) throws IOException {
            try (MessageUnpacker unpacker = MessagePack.newDefaultUnpacker(value)) {
                for (int fields = unpacker.unpackMapHeader(); fields > 0; fields--) {
                    if (unpacker.unpackString().equals("amount")) {
                        return unpacker.unpackLong();
                    }
                    unpacker.skipValue();
                }
            }
            throw new IOException("a deposit has no amount");
        }

        private byte[] deposited(long amount, long balance) throws IOException {
            packer.clear();
            packer.packMapHeader(3);
            packer.packString("type").packString("Deposited");
            packer.packString("amount").packLong(amount);
            packer.packString("balance").packLong(balance);
            return packer.toByteArray();
        }
    }
}
