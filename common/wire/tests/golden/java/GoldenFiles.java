import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.*;
import java.io.File;
import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.*;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;

/**
 * Serialises a value of every message at every version with Kafka's own classes.
 *
 * The value is drawn from SplitMix64 on a walk over the fields in the order of the schema; `src/filler.rs` draws by the
 * same rules. Each line of a golden file: name, version, seed (`default`: the value Kafka's constructor makes), bytes
 * in hex. What Kafka 4.3.1 does not know is listed in `not-in-4.3.1.txt`.
 */
public class GoldenFiles {
    static final int SEEDS = 8;
    static final String[] PACKAGES = {
        "org.apache.kafka.common.message",
        "org.apache.kafka.coordinator.group.generated",
        "org.apache.kafka.coordinator.transaction.generated",
        "org.apache.kafka.coordinator.share.generated",
        "org.apache.kafka.server.log.remote.metadata.storage.generated",
        "org.apache.kafka.common.metadata",
    };

    /** Fields whose name in 4.4 differs from that in 4.3.1 in some message. */
    static final Map<String, String> RENAMED = Map.of(
        "GenerationIdOrMemberEpoch", "GenerationId", "AcceptableRecoveryLagLegacy", "AcceptableRecoveryLag");

    public static void main(String[] args) throws Exception {
        File out = new File(args[args.length - 1]);
        Map<String, PrintWriter> files = new TreeMap<>();
        try (PrintWriter unknown = new PrintWriter(new File(out, "not-in-4.3.1.txt"), StandardCharsets.UTF_8)) {
            for (int i = 0; i < args.length - 1; i++) {
                for (JsonNode message : new ObjectMapper().readTree(new File(args[i]))) {
                    String kind = switch (message.get("type").asText()) {
                        case "request" -> "requests";
                        case "response" -> "responses";
                        default -> "records";
                    };
                    if (!files.containsKey(kind)) {
                        files.put(kind, new PrintWriter(new File(out, kind + ".txt"), StandardCharsets.UTF_8));
                    }
                    write(message, files.get(kind), unknown);
                }
            }
        }
        for (PrintWriter file : files.values()) file.close();
    }

    static void write(JsonNode schema, PrintWriter file, PrintWriter unknown) throws Exception {
        String name = schema.get("name").asText();
        if (schema.get("validVersions").asText().equals("none")) return;
        short[] valid = range(schema.get("validVersions").asText());
        Class<?> type = find(name);
        Class<?> converter = type == null ? null : Class.forName(type.getName() + "JsonConverter");
        for (short version = valid[0]; version <= valid[1]; version++) {
            Message empty = type == null ? null : (Message) type.getConstructor().newInstance();
            if (empty == null || version < empty.lowestSupportedVersion() || version > empty.highestSupportedVersion()) {
                unknown.println(name + " " + version);
                continue;
            }
            line(file, name, version, "default", empty);
            for (long seed = 1; seed <= SEEDS; seed++) {
                Walk walk = new Walk(schema, version, new Filler(seed));
                JsonNode json = walk.struct(schema.get("fields"));
                Message filled;
                try {
                    filled = (Message) converter.getMethod("read", JsonNode.class, short.class).invoke(null, json, version);
                } catch (java.lang.reflect.InvocationTargetException error) {
                    throw new RuntimeException(name + " " + version + " " + seed, error.getCause());
                }
                line(file, name, version, Long.toString(seed), filled);
            }
        }
    }

    static void line(PrintWriter file, String name, short version, String seed, Message message) {
        ByteBuffer buffer;
        try {
            ObjectSerializationCache cache = new ObjectSerializationCache();
            buffer = ByteBuffer.allocate(message.size(cache, version));
            message.write(new ByteBufferAccessor(buffer), cache, version);
            buffer.flip();
        } catch (RuntimeException error) {
            throw new RuntimeException(name + " " + version + " " + seed, error);
        }
        byte[] bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        file.println(name + " " + version + " " + seed + " " + HexFormat.of().formatHex(bytes));
    }

    static Class<?> find(String name) {
        for (String place : PACKAGES) {
            for (String suffix : new String[] {"Data", ""}) {
                try {
                    Class<?> found = Class.forName(place + "." + name + suffix);
                    if (Message.class.isAssignableFrom(found)) return found;
                } catch (ClassNotFoundException next) {
                    // Try the next place.
                }
            }
        }
        return null;
    }

    static short[] range(String text) {
        if (text.equals("none")) return new short[] {0, -1};
        if (text.endsWith("+")) return new short[] {Short.parseShort(text.substring(0, text.length() - 1)), Short.MAX_VALUE};
        String[] ends = text.split("-");
        return new short[] {Short.parseShort(ends[0]), Short.parseShort(ends[ends.length - 1])};
    }

    static boolean contains(JsonNode range, short version) {
        if (range == null) return false;
        short[] ends = range(range.asText());
        return ends[0] <= version && version <= ends[1];
    }

    /** Makes the JSON of one message, as its converter reads it. */
    static class Walk {
        final Map<String, JsonNode> structs = new HashMap<>();
        final short version;
        final Filler filler;

        Walk(JsonNode message, short version, Filler filler) {
            this.version = version;
            this.filler = filler;
            collect(message.get("fields"));
            if (message.has("commonStructs")) {
                for (JsonNode common : message.get("commonStructs")) {
                    structs.put(common.get("name").asText(), common.get("fields"));
                    collect(common.get("fields"));
                }
            }
        }

        void collect(JsonNode fields) {
            for (JsonNode field : fields) {
                if (field.has("fields")) {
                    structs.put(field.get("type").asText().replace("[]", ""), field.get("fields"));
                    collect(field.get("fields"));
                }
            }
        }

        ObjectNode struct(JsonNode fields) {
            ObjectNode node = JsonNodeFactory.instance.objectNode();
            for (JsonNode field : fields) {
                JsonNode versions = field.has("versions") ? field.get("versions") : field.get("taggedVersions");
                if (!contains(versions, version)) continue;
                String name = field.get("name").asText();
                String type = field.get("type").asText();
                // Null one time in four, where this version allows it.
                boolean isNull = contains(field.get("nullableVersions"), version) && filler.atMost(3) == 0;
                JsonNode value = isNull ? NullNode.instance : value(type);
                node.set(lowerFirst(name), value);
                // The converters ignore names that they do not know.
                if (RENAMED.containsKey(name)) node.set(lowerFirst(RENAMED.get(name)), value);
            }
            return node;
        }

        static String lowerFirst(String name) {
            return name.substring(0, 1).toLowerCase(Locale.ROOT) + name.substring(1);
        }

        JsonNode value(String type) {
            if (type.startsWith("[]")) {
                ArrayNode array = JsonNodeFactory.instance.arrayNode();
                int length = filler.atMost(3);
                for (int i = 0; i < length; i++) array.add(value(type.substring(2)));
                return array;
            }
            return switch (type) {
                case "bool" -> BooleanNode.valueOf((filler.next() & 1) == 1);
                case "int8" -> IntNode.valueOf((byte) filler.next());
                case "int16" -> IntNode.valueOf((short) filler.next());
                case "uint16" -> IntNode.valueOf((int) filler.next() & 0xffff);
                case "int32" -> IntNode.valueOf((int) filler.next());
                case "uint32" -> LongNode.valueOf(filler.next() & 0xffffffffL);
                case "int64" -> LongNode.valueOf(filler.next());
                case "float64" -> DoubleNode.valueOf((int) filler.next() / 8.0);
                case "uuid" -> TextNode.valueOf(new Uuid(filler.next(), filler.next()).toString());
                case "string" -> TextNode.valueOf(filler.string());
                case "bytes", "records" -> BinaryNode.valueOf(filler.bytes());
                default -> struct(structs.get(type));
            };
        }
    }

    /** SplitMix64, and the same draws as in `src/filler.rs`. */
    static class Filler {
        static final String[] LETTERS = {"a", "Z", "7", "-", "é", "ж", "漢", "🧵"};
        long state;

        Filler(long seed) {
            state = seed;
        }

        long next() {
            state += 0x9e3779b97f4a7c15L;
            long z = state;
            z = (z ^ (z >>> 30)) * 0xbf58476d1ce4e5b9L;
            z = (z ^ (z >>> 27)) * 0x94d049bb133111ebL;
            return z ^ (z >>> 31);
        }

        int atMost(long most) {
            return (int) Long.remainderUnsigned(next(), most + 1);
        }

        String string() {
            StringBuilder text = new StringBuilder();
            int letters = atMost(9);
            for (int i = 0; i < letters; i++) text.append(LETTERS[atMost(7)]);
            return text.toString();
        }

        byte[] bytes() {
            byte[] bytes = new byte[atMost(7) == 0 ? 600 : atMost(9)];
            for (int i = 0; i < bytes.length; i++) bytes[i] = (byte) next();
            return bytes;
        }
    }
}
