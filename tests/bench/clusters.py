"""What the measuring scripts beside this share: a cluster of Odradek's, another one by a script, what their processes use."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def run(command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Cluster:
    """Odradek, by `deploy/cluster`."""

    can_restart = True

    def __init__(self, options):
        self.options = options
        self.dir = Path(options.dir or tempfile.mkdtemp(prefix="odradek-bench-"))
        self.own_dir = not options.dir
        self.bin = Path(options.bin_dir)
        self.env = dict(os.environ, ODRADEK_BIN_DIR=str(self.bin))
        self.ended = {}

    def script(self, *words):
        return run([ROOT / "deploy/cluster", *words, "--dir", self.dir], env=self.env)

    def up(self, controllers=3, brokers=3, settings=()):
        more = [word for item in [*settings, *self.options.set] for word in ("--set", item)]
        self.script("up", "--controllers", controllers, "--brokers", brokers, "--port", self.options.port, *more)
        lines = (self.dir / "env").read_text().splitlines()
        self.places = dict(line.split("=", 1) for line in lines if "=" in line)
        self.bootstrap = self.places["BOOTSTRAP"]

    def down(self):
        self.script("down", "--wipe")

    def close(self):
        if (self.dir / "cluster").exists():
            self.down()
        if self.own_dir:
            shutil.rmtree(self.dir, ignore_errors=True)

    def end(self, node, kill=False):
        """Stops a node's process, and keeps how it was started. Seconds until it was gone."""
        pid = self.pids()[node]
        proc = Path(f"/proc/{pid}")
        words = (proc / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        self.ended[node] = [os.fsdecode(word) for word in words], (proc / "cwd").resolve()
        begun = time.monotonic()
        os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        while proc.exists() and (proc / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            time.sleep(0.002)
        return time.monotonic() - begun

    def again(self, node):
        """Starts the process of a node that was ended, as it was started before."""
        words, cwd = self.ended.pop(node)
        script = 'exec 3>"$1/pid"; shift; (exec "$@" >>"$OUT" 2>&1 </dev/null 3>&-) & echo $! >&3'
        env = dict(os.environ, OUT=str(self.dir / node / "log"))
        subprocess.run(["bash", "-c", script, "again", str(self.dir / node), *words], cwd=cwd, env=env, check=True)

    def pids(self):
        return {path.parent.name: int(path.read_text()) for path in sorted(self.dir.glob("*/pid"))}

    def revive(self, node):
        self.script("start", node)

    def ask(self, *words):
        return json.loads(run([self.bin / "odradek", "--admin", self.places["ADMIN"], "--output", "json", *words]))

    def active_controller(self):
        return f"controller-{self.ask('quorum', 'status')['leader_id'] - 100}"

    def log(self, node):
        return (self.dir / node / "log").read_text(errors="replace")


class Peer(Cluster):
    """Another cluster, by a script."""

    can_restart = False

    def up(self, controllers=3, brokers=3, settings=()):
        os.environ["PEER_PROPS"] = " ".join(settings)
        self.bootstrap = run([self.options.peer, "start", brokers, controllers]).strip().splitlines()[-1]
        self.dir = Path(os.environ.get("PEER_HOME", tempfile.gettempdir() + "/peer-kafka")) / "run"

    def down(self):
        run([self.options.peer, "stop"])

    def close(self):
        self.down()

    def active_controller(self):
        text = run([self.options.peer, "quorum", "--bootstrap-server", self.bootstrap, "describe", "--status"])
        found = re.search(r"LeaderId:\s*([0-9]+)", text)
        return f"controller-{int(found[1]) - 100}"


def usage(pids):
    """CPU-seconds so far and resident MiB of each process."""
    out = {}
    tick = os.sysconf("SC_CLK_TCK")
    for node, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        out[node] = ((int(fields[11]) + int(fields[12])) / tick, int(status["VmRSS"].split()[0]) / 1024)
    return out
