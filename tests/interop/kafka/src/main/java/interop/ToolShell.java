package interop;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's command-line tools one after the other in one virtual machine, as each start of one costs seconds. A tool is
 * run by its own `main`, with what it reads and prints, and with the code that it would exit with.
 *
 * <p>It listens on a port of the loopback interface, prints `PORT number`, and answers one command a connection. A command is
 * the class, the arguments and the standard input; the answer is the exit code and what was printed. A number is four bytes,
 * big-endian; text and bytes have their length before them.
 *
 * <p>Tools that end the machine by themselves ({@code System.exit}) do not belong here; whoever asked sees the connection end.
 */
public final class ToolShell {
    /** Where a tool's output goes; swapped under the loggers, which hold on to the streams that they found first. */
    private static final class Output extends OutputStream {
        private ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        private boolean open;

        synchronized void begin() {
            bytes = new ByteArrayOutputStream();
            open = true;
        }

        /** What a process prints after it has exited, nobody sees. */
        synchronized void end() {
            open = false;
        }

        synchronized byte[] taken() {
            open = false;
            return bytes.toByteArray();
        }

        @Override
        public synchronized void write(int value) {
            if (open) {
                bytes.write(value);
            }
        }

        @Override
        public synchronized void write(byte[] from, int offset, int length) {
            if (open) {
                bytes.write(from, offset, length);
            }
        }
    }

    /** Ends the tool where it would have ended the machine. An error, as tools catch exceptions. */
    private static final class Exited extends Error {
        Exited() {
            super("the tool has exited", null, false, false);
        }
    }

    private final Output output = new Output();
    private final List<Runnable> hooks = new ArrayList<>();
    /** What the first exit said; it counts, should the tool catch it and exit once more. */
    private Integer code;

    public static void main(String[] args) throws IOException {
        PrintStream console = System.out;
        try (ServerSocket listener = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            ToolShell shell = new ToolShell();
            PrintStream captured = new PrintStream(shell.output, true);
            System.setOut(captured);
            System.setErr(captured);
            Exit.setExitProcedure((status, message) -> shell.exit(status));
            Exit.setHaltProcedure((status, message) -> shell.exit(status));
            Exit.setShutdownHookAdder((name, hook) -> shell.addHook(hook));
            console.println("PORT " + listener.getLocalPort());
            while (true) {
                try (Socket caller = listener.accept()) {
                    shell.serve(new DataInputStream(caller.getInputStream()), new DataOutputStream(caller.getOutputStream()));
                }
            }
        }
    }

    private static byte[] bytes(DataInputStream in) throws IOException {
        byte[] out = new byte[in.readInt()];
        in.readFully(out);
        return out;
    }

    private void serve(DataInputStream in, DataOutputStream out) throws IOException {
        String[] words = new String[in.readInt()];
        for (int i = 0; i < words.length; i++) {
            words[i] = new String(bytes(in), StandardCharsets.UTF_8);
        }
        System.setIn(new ByteArrayInputStream(bytes(in)));
        begin();
        try {
            Class<?> tool = Class.forName(words[0]);
            tool.getMethod("main", String[].class).invoke(null, (Object) Arrays.copyOfRange(words, 1, words.length));
            exitOnce(0);
        } catch (InvocationTargetException e) {
            if (!(e.getCause() instanceof Exited)) {
                e.getCause().printStackTrace();
                exitOnce(1);
            }
        } catch (ReflectiveOperationException e) {
            e.printStackTrace();
            exitOnce(1);
        }
        runHooks();
        byte[] said = output.taken();
        out.writeInt(exitCode());
        out.writeInt(said.length);
        out.write(said);
        out.flush();
    }

    private synchronized void begin() {
        output.begin();
        hooks.clear();
        code = null;
    }

    private synchronized void addHook(Runnable hook) {
        hooks.add(hook);
    }

    private synchronized int exitCode() {
        return code;
    }

    private synchronized void exitOnce(int status) {
        if (code == null) {
            code = status;
        }
    }

    private void exit(int status) {
        exitOnce(status);
        throw new Exited();
    }

    /** As the machine does at its end; a producer, for one, sends there what it still holds. */
    private void runHooks() {
        List<Runnable> last;
        synchronized (this) {
            last = List.copyOf(hooks);
        }
        for (Runnable hook : last) {
            hook.run();
        }
        output.end();
    }
}
