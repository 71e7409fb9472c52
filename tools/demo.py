"""The part of tools/demo that runs inside the lab: serve, receive, kill, join late, compare."""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

TOOLS = pathlib.Path(__file__).resolve().parent
DEADLINE_S = 600
KILL_AT = 0.4
JOIN_AT = 0.6


def main():
    options = arguments()
    run = pathlib.Path(options.run)
    say("The image, published")
    store = ["--store", str(run / "store")]
    publish(options, store)

    names = lab("lab_nodes").split()
    say(f"A head and {len(names)} nodes, {lab_loss()} % loss")
    head, token = serve(options, store, run)
    nodes = [Node(name, name, options, run, token) for name in names]
    show(options, run, nodes, token)
    head.send_signal(signal.SIGINT)

    say("What the nodes say")
    table(nodes)
    say("What stock tools say")
    good = compare(pathlib.Path(options.tree), nodes)
    if options.udpcast:
        say("The same bundle as a plain file, in the same lab, without a limit of rate")
        bundle = next((run / "store").rglob("*.tar.zst"))
        side_by_side(options, bundle, lab("lab_nodes").split(), run)
    print("\nAll nodes are bit-exact." if good else f"\nNOT all nodes are right. Logs: {run}")
    sys.exit(0 if good else 3)


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("binary", "tree", "run", "rate"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--udpcast", action="store_true")
    return parser.parse_args()


def say(text):
    print(f"\n== {text}", flush=True)


def lab(line):
    """Runs a line of shell with the functions of tools/lab.sh."""
    return subprocess.run(["bash", "-c", line], check=True, stdout=subprocess.PIPE, text=True).stdout


def lab_loss():
    return os.environ["LAB_LOSS"]


def on(node, command, log):
    """Starts a command on a node, with its output in a file; the process is the command itself."""
    rename = ["unshare", "--uts", "--", "sh", "-c", 'hostname "$0"; exec "$@"', node]
    return subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{node}", "--", *rename, *map(str, command)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
    )


def publish(options, store):
    for command in (
        ["key", "generate"],
        ["image", "import", "demo", "--tree", options.tree],
        ["image", "publish", "demo"],
    ):
        subprocess.run([options.binary, *store, *command], check=True)


def serve(options, store, run):
    token = json.loads(subprocess.run(
        [options.binary, *store, "token", "create", "--json"],
        check=True, stdout=subprocess.PIPE,
    ).stdout)["token"]
    limit = ["--rate-max", f"{options.rate}mbit"] if options.rate != "0" else []
    command = [options.binary, *store, "serve", "--interface", "eth0", *limit]
    return on("head", command, open(run / "head.log", "ab")), token


class Node:
    """One attempt of one node, and what its log tells."""

    def __init__(self, node, title, options, run, token):
        self.node, self.title = node, title
        self.into = run / node
        self.log = run / f"{title.replace(' ', '-')}.log"
        self.share, self.phase, self.receipt, self.read = 0.0, "starts", None, 0
        self.killed = False
        self.log.unlink(missing_ok=True)
        command = [options.binary, "receive", "demo", "--into", self.into, "--token", token,
                   "--interface", "eth0", "--json-lines"]
        self.process = on(node, command, open(self.log, "ab"))

    def look(self):
        """Reads what the log got since last time."""
        with open(self.log, "rb") as log:
            log.seek(self.read)
            lines = log.read().rpartition(b"\n")[0]
        self.read += len(lines) + bool(lines)
        for line in filter(lambda line: line.startswith(b"{"), lines.split(b"\n")):
            event = json.loads(line)
            kind = event.get("event")
            if kind == "phase":
                self.phase = event["phase"]
            elif kind == "progress" and self.phase == "receiving":
                self.share = event["bytes_done"] / max(1, event["bytes_total"])
            elif "shares" in event:
                self.receipt = event

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.killed = True

    def complaint(self):
        """Why it has no receipt: its last lines that are not events."""
        lines = self.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if not line.startswith("{")][-3:]
        return f"exit code {self.process.returncode}: " + " / ".join(said)

    def state(self):
        if self.killed:
            return "killed"
        if self.process.poll() is not None:
            return "done" if self.process.returncode == 0 else f"exit {self.process.returncode}"
        return f"{self.share:4.0%}" if self.phase == "receiving" else self.phase


def show(options, run, nodes, token):
    """Watches until all are done; in the middle one is killed and restarted, and one joins."""
    victim, joined, deadline, drawn = nodes[min(1, len(nodes) - 1)], False, time.time() + DEADLINE_S, 0
    while any(node.process.poll() is None for node in nodes):
        for node in nodes:
            node.look()
        if not victim.killed and victim.share >= KILL_AT and victim.phase == "receiving":
            victim.kill()
            note(f"{victim.node} killed at {victim.share:.0%} (kill -9), and started again")
            nodes.append(Node(victim.node, f"{victim.node} again", options, run, token))
        if not joined and max(node.share for node in nodes) >= JOIN_AT:
            joined = True
            late = lab("lab_add_node").strip()
            lab(f"lab_loss {late} {lab_loss()}")
            note(f"{late} joins late")
            nodes.append(Node(late, f"{late} (late)", options, run, token))
        if time.time() > deadline:
            note("The demo's time is over; what still runs is killed")
            for node in nodes:
                node.kill()
        if time.time() > drawn + (0.2 if sys.stdout.isatty() else 2):
            drawn = time.time()
            draw(nodes)
        time.sleep(0.01)
    for node in nodes:
        node.look()
    draw(nodes)
    print()


def note(text):
    print(("\r\033[K" if sys.stdout.isatty() else "") + text, flush=True)


def draw(nodes):
    line = "   ".join(f"{node.title} {node.state()}" for node in nodes)
    if sys.stdout.isatty():
        width = os.get_terminal_size().columns
        print(f"\r\033[K{line[:width - 1]}", end="", flush=True)
    else:
        print(line, flush=True)


def table(nodes):
    """One row per attempt. MB/s is of the compressed bundle, from the first wish to the last piece;
    the shares say where its bytes came from."""
    print(f"{'node':14} {'seconds':>7} {'MB/s':>6} {'loss':>7} {'repaired':>9} {'resumed':>8} "
          f"{'multicast':>10} {'swarm':>6} {'HTTP':>6}  verified")
    for node in nodes:
        receipt = node.receipt
        if node.killed or receipt is None:
            why = f"killed at {node.share:.0%}" if node.killed else node.complaint()
            print(f"{node.title:14} {why}")
            continue
        rate = receipt["bytes"] / max(receipt["seconds_receiving"], 0.001) / 1e6
        share = {via: got / receipt["bytes"] for via, got in receipt["shares"].items()}
        print(f"{node.title:14} {receipt['seconds']:7.2f} {rate:6.1f} {receipt['loss']:7.2%} "
              f"{receipt['pieces_repaired']:9} {share['resume']:8.0%} {share['multicast']:10.0%} "
              f"{share['swarm']:6.0%} {share['http']:6.0%}  {'yes' if receipt['verified'] else 'NO'}")


def compare(tree, nodes):
    """Compares each node's tree with the source by tools/picture."""
    picture = subprocess.run([TOOLS / "picture", tree], check=True, stdout=subprocess.PIPE).stdout
    good = True
    for node in nodes:
        if node.killed:
            continue
        seen = subprocess.run([TOOLS / "picture", node.into], stdout=subprocess.PIPE).stdout
        same = seen == picture
        good = good and same and node.process.returncode == 0
        print(f"{node.title:14} {'bit-exact' if same else 'DIFFERS'}: names, metadata, links, "
              f"attributes, SHA-256 of all content")
    return good


def side_by_side(options, bundle, names, run):
    """The bundle as a plain file to all nodes, by each tool once; tools/bench-transports measures."""
    made = subprocess.run([options.binary, "token", "create", "--offline", "--json"],
                          check=True, stdout=subprocess.PIPE)
    common = ["--interface", "eth0", "--quiet", "--token", json.loads(made.stdout)["token"]]
    one_file(
        "flashover", bundle, names, run,
        [options.binary, "cast", bundle, "--receivers", len(names), *common],
        lambda file: [options.binary, "catch", file, *common],
    )
    common = ["--interface", "eth0", "--nokbd", "--no-progress", "--start-timeout", "30"]
    one_file(
        "udpcast", bundle, names, run,
        ["udp-sender", "--file", bundle, "--min-receivers", len(names), *common],
        lambda file: ["udp-receiver", "--file", file, "--receive-timeout", "30", *common],
    )


def one_file(tool, bundle, names, run, sender, receiver):
    log = open(run / f"{tool}.log", "ab")
    size, content, begun = bundle.stat().st_size, bundle.read_bytes(), time.time()
    processes = {name: on(name, receiver(run / f"{name}.{tool}"), log) for name in names}
    processes["head"] = on("head", sender, log)
    for name, process in processes.items():
        try:
            process.wait(max(0.1, begun + DEADLINE_S - time.time()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        seconds, got = time.time() - begun, run / f"{name}.{tool}"
        verdict = "sent"
        if name != "head":
            same = got.exists() and got.read_bytes() == content
            verdict = "identical" if same else "NOT identical"
        print(f"{tool:10} {name:6} exit {process.returncode:3}  {seconds:6.2f} s  "
              f"{size / seconds / 1e6:6.1f} MB/s  {verdict}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
