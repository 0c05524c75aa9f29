"""What `compare` prints and draws of a run: tables as text or Markdown, and a chart as SVG. It knows the run's JSON alone."""

import math
from html import escape
from statistics import median

SIDES = ("odradek", "peer")
# name in the JSON -> heading, factor, digits
COLUMNS = {
    "mib_s": ("MiB/s", 1, 0),
    "records_s": ("1,000 records/s", 1e-3, 0),
    "cpu_s_per_gib": ("CPU-s/GiB", 1, 2),
    "cpu_s_per_million": ("CPU-s/M records", 1, 2),
    "peak_mib": ("peak RSS, MiB", 1, 0),
    "p50_us": ("p50 ms", 1e-3, 2),
    "p99_us": ("p99 ms", 1e-3, 2),
    "p999_us": ("p99.9 ms", 1e-3, 2),
}

# What is to be reached: what it says, load, figure, bound on the ratio to the peer, bound on the ratio to the kernel's floor.
# A bound above 1 on the ratio to the peer is one from below.
TARGETS = [
    ("produce 64 KiB, RF 1: CPU per GiB", "produce/64k/p6/all/rf1", "cpu_s_per_gib", 1 / 3, 1.5),
    ("the same, idempotent", "produce/64k/p6/idempotent/rf1", "cpu_s_per_gib", 1 / 3, 1.6),
    ("produce 4 KiB batches, RF 1: CPU per GiB", "produce/4k/p6/all/rf1", "cpu_s_per_gib", 1 / 6, None),
    ("produce single 100-byte records: CPU per record", "produce/single/p6/all/rf1", "cpu_s_per_million", 1 / 6, None),
    ("produce 64 KiB, RF 3, acks=all: CPU of all brokers per GiB", "produce/64k/p6/all/rf3", "cpu_s_per_gib", 1 / 3, None),
    ("the same: throughput", "produce/64k/p6/all/rf3", "mib_s", 2.5, None),
    ("fetch, hot: CPU per GiB", "fetch/hot/1", "cpu_s_per_gib", 0.6, None),
    ("fetch, cold, while producing: p99 of the producers", "fetch/cold", "p99_us", 1 / 3, None),
    ("end to end RF 3, 1,000/s: p50", "e2e/rf3", "p50_us", 1 / 3, None),
    ("end to end RF 3, 1,000/s: p99", "e2e/rf3", "p99_us", 1 / 3, None),
    ("end to end RF 3, 1,000/s: p99.9", "e2e/rf3", "p999_us", 1 / 3, None),
]
PEAK_MAX = 1 / 20
# A peak of the last round beyond the first's by more than this is growth.
FLAT_MAX = 1.1


def fraction(bound):
    return f"1/{round(1 / bound)}" if bound < 0.5 else f"{bound:g}"


def figure(name, value):
    _, factor, digits = COLUMNS[name]
    return f"{value * factor:,.{digits}f}"


def middle(run, load, side, name):
    """The median over the rounds without errors; None where there is none."""
    values = [one[name] for one in run["loads"].get(load, {}).get(side, []) if one.get(name)]
    return median(values) if values else None


def ratio(run, load, name):
    own, other = (middle(run, load, side, name) for side in SIDES)
    return own / other if own and other else None


def targets(run):
    """Rows of the table of what is to be reached; each closes with True, False, or None where it was not measured."""
    rows = []
    floor = median(run["floor"]["produce"]) if run["floor"]["produce"] else None
    for what, load, name, bound, above_floor in TARGETS:
        own, other = (middle(run, load, side, name) for side in SIDES)
        if own is None:
            continue
        texts = [figure(name, value) if value else "-" for value in (own, other)]
        heading = COLUMNS[name][0]
        if above_floor and floor:
            rows.append((f"{what}, beside the kernel's", heading, texts[0], f"{floor:.2f}", f"{own / floor:.2f}",
                         f"<= {above_floor:g} x", own / floor <= above_floor))
        share = own / other if other else None
        good = None if share is None else share >= bound if bound > 1 else share <= bound
        said = f">= {bound:g} x" if bound > 1 else f"<= {fraction(bound)}"
        rows.append((what, heading, *texts, "-" if share is None else f"{share:.3f}", said, good))
    rows.extend(memory(run))
    return rows


def memory(run):
    rows = []
    peaks = {side: max(run["peak_mib"].get(side, {}).values(), default=None) for side in SIDES}
    own, other = (peaks[side] for side in SIDES)
    if own and other:
        rows.append((f"peak RSS of a broker under all of these (the peer's heap: {run['peer']['heap']})", "MiB", f"{own:.0f}",
                     f"{other:.0f}", f"{own / other:.3f}", f"<= {fraction(PEAK_MAX)}", own / other <= PEAK_MAX))
    for phase, rounds in sorted(run["peaks_by_round"].items()):
        first, last = ([rounds[at].get(side) for side in SIDES] for at in (0, -1))
        if len(rounds) > 1 and first[0] and last[0]:
            texts = [f"{a:.0f} -> {b:.0f}" if a and b else "-" for a, b in zip(first, last)]
            rows.append((f"its peak, first round -> last, {phase}, over {run['minutes_by_phase'][phase]:.0f} min", "MiB", *texts,
                         f"{last[0] / first[0]:.3f}", f"<= {FLAT_MAX:g} x its own", last[0] / first[0] <= FLAT_MAX))
    return rows


REACHED = {True: "yes", False: "NO", None: "-"}


def target_table(run):
    head = ["to reach", "", "Odradek", run["peer"]["name"], "ratio", "bound", "reached"]
    return [head, *[[*row[:-1], REACHED[row[-1]]] for row in targets(run)]]


def load_table(run):
    """A cell is Odradek's figure, the peer's, and the first as a share of the second."""
    head = ["load (Odradek / peer, ratio)", *[heading for heading, _, _ in COLUMNS.values()]]
    rows = []
    for load in run["loads"]:
        cells = []
        for name in COLUMNS:
            pair = [middle(run, load, side, name) for side in SIDES]
            texts = " / ".join(figure(name, value) if value else "-" for value in pair)
            share = ratio(run, load, name)
            cells.append("-" if pair == [None, None] else texts + (f", {share:.2f}" if share else ""))
        rows.append([load, *cells])
    return [head, *rows]


def text_table(rows):
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def markdown_table(rows):
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def page(run, markdown):
    table = markdown_table if markdown else text_table
    rounds = ", ".join(f"{count} of {phase}" for phase, count in run["rounds"].items())
    out = [
        f"Machine: {run['machine']}.",
        f"Odradek: commit {run['commit']}. The peer: {run['peer']['name']}, heap {run['peer']['heap']}.",
        f"Command: {'`' + run['command'] + '`' if markdown else run['command']}; {run['took_s'] / 60:.0f} minutes from "
        f"{run['started']}; rounds: {rounds}; each figure is a median over them.",
    ]
    for what, values in run["floor"].items():
        if values:
            out.append(f"The kernel alone, {what}: {median(values):.2f} CPU-s/GiB.")
    if run.get("syscalls"):
        calls = ", ".join(f"{name} {count:,}" for name, count in run["syscalls"].items())
        out.append(f"Calls of the broker while hot records leave, by `strace -c`: {calls}.")
    out.extend(["", table(target_table(run)), "", table(load_table(run)), ""])
    if run["discarded"]:
        out.append("Discarded, since there were errors:")
        out.extend(f"- {one['load']}, {one['side']}, round {one['round']}: {one['why']}" for one in run["discarded"])
    else:
        out.append("No run was discarded.")
    separator = "\n\n" if markdown else "\n"
    opening = separator.join(out[:out.index("")])
    return opening + "\n" + "\n".join(out[out.index(""):]) + "\n"


# ---- the chart -------------------------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT, ROW = 960, 260, 40, 22
MARKS = {"cpu": ("#b3541e", "CPU"), "mib_s": ("#3a6ea5", "MiB/s"), "p99_us": ("#6b8e23", "p99")}
INK, GRID = "#333", "#ddd"


class Svg:
    def __init__(self):
        self.parts = []

    def text(self, x, y, words, anchor="start", size=12, fill=INK):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">'
                          f"{escape(words)}</text>")

    def line(self, x1, y1, x2, y2, stroke=GRID, width=1):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
                          f'stroke-width="{width}"/>')

    def bar(self, x1, x2, y, height, fill):
        self.parts.append(f'<rect x="{min(x1, x2):.1f}" y="{y:.1f}" width="{max(abs(x2 - x1), 1):.1f}" height="{height}" '
                          f'fill="{fill}"/>')

    def path(self, points, stroke):
        if points:
            joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            self.parts.append(f'<polyline points="{joined}" fill="none" stroke="{stroke}" stroke-width="1.5"/>')

    def whole(self, height):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
                'font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def chart(run):
    svg = Svg()
    svg.text(20, 26, f"Odradek beside {run['peer']['name']}: its figure as a multiple of the peer's", size=16)
    svg.text(20, 44, f"{run['machine']}; commit {run['commit']}", size=11, fill="#777")
    y = ratios(svg, run, 60)
    y = resident(svg, run, y + 40)
    return svg.whole(y + 30)


def ratios(svg, run, top):
    """Bars from 1 to each ratio, on an axis of powers of two."""
    shown = []
    for load in run["loads"]:
        cpu = ratio(run, load, "cpu_s_per_gib") or ratio(run, load, "cpu_s_per_million")
        found = {"cpu": cpu, "mib_s": ratio(run, load, "mib_s"), "p99_us": ratio(run, load, "p99_us")}
        if any(found.values()):
            shown.append((load, {mark: math.log2(value) for mark, value in found.items() if value}))
    exponents = [exponent for _, found in shown for exponent in found.values()]
    low, high = math.floor(min(exponents, default=-1)), math.ceil(max(exponents, default=1))
    low, high = min(low, -1), max(high, 1)
    place = lambda exponent: LEFT + (exponent - low) / (high - low) * (WIDTH - LEFT - RIGHT)
    x = LEFT
    for color, name in MARKS.values():
        svg.bar(x, x + 10, top + 2, 10, color)
        svg.text(x + 14, top + 11, name)
        x += 80
    top += 36
    bottom = top + ROW * len(shown)
    for exponent in range(low, high + 1):
        svg.line(place(exponent), top - 4, place(exponent), bottom, INK if exponent == 0 else GRID)
        svg.text(place(exponent), top - 8, f"1/{2 ** -exponent}" if exponent < 0 else f"{2 ** exponent}", "middle", 10)
    for number, (load, found) in enumerate(shown):
        y = top + number * ROW
        svg.text(LEFT - 8, y + 14, load, "end", 11)
        for at, (mark, (color, _)) in enumerate(MARKS.items()):
            if mark in found:
                svg.bar(place(0), place(found[mark]), y + 3 + at * 6, 5, color)
    return bottom


def thinned(samples):
    """No more than can be seen: the largest of each few."""
    each = max(1, len(samples) // 400)
    groups = [samples[at:at + each] for at in range(0, len(samples), each)]
    return [[group[0][0], *(max(sample[side] for sample in group) for side in (1, 2))] for group in groups]


def resident(svg, run, top):
    """Resident memory of the largest broker of each side over the run, on an axis of powers of two."""
    height = 180
    svg.text(20, top, "Resident memory of the largest broker, MiB, over the minutes of the run", size=14)
    top += 14
    samples = thinned(run["resident"])
    values = [value for sample in samples for value in sample[1:] if value]
    if not values:
        return top
    low, high = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values))) or 1
    high = max(high, low + 1)
    until = max(samples[-1][0], 1)
    across = lambda seconds: LEFT + seconds / until * (WIDTH - LEFT - RIGHT)
    down = lambda value: top + height - (math.log2(value) - low) / (high - low) * height
    for exponent in range(low, high + 1):
        svg.line(LEFT, down(2 ** exponent), WIDTH - RIGHT, down(2 ** exponent))
        svg.text(LEFT - 8, down(2 ** exponent) + 4, f"{2 ** exponent}", "end", 10)
    step = max(1, round(until / 60 / 10))
    for minute in range(0, int(until / 60) + 1, step):
        svg.text(across(minute * 60), top + height + 16, str(minute), "middle", 10)
    for at, (color, name) in enumerate([("#b3541e", "Odradek"), ("#777", run["peer"]["name"])], 1):
        svg.path([(across(sample[0]), down(sample[at])) for sample in samples if sample[at]], color)
        ends = [sample[at] for sample in samples if sample[at]]
        if ends:
            svg.text(LEFT + 6, down(ends[-1]) - 6, name, fill=color, size=11)
    return top + height + 20
