"""report.html: the fidelity report for people, one file that needs no other: figures, and three plots in SVG."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from nearfield.bench.divergence import BANDS
from nearfield.core.config import format_bytes, format_figure

_STYLE = """:root{color-scheme:light dark;--ink:#1b1f24;--soft:#6b7480;--line:#d5dae0;--mark:#0b7a5c;--back:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#97a1ac;--line:#353c44;--mark:#3fcf9f;--back:#15181c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:52rem;margin:2rem auto;
padding:0 1rem}table{border-collapse:collapse;width:100%;margin:1rem 0}
td,th{padding:.3rem .6rem;border-bottom:1px solid var(--line);
text-align:right;font-variant-numeric:tabular-nums}td:first-child,th:first-child{text-align:left}h1{font-size:1.4rem}
h2{font-size:1.05rem;margin-top:2rem}p,th,small{color:var(--soft)}b{color:var(--mark)}svg{width:100%;height:auto}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}"""

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 240, 64, 34, 12
Point = tuple[float, float]


def page(result: Mapping[str, Any]) -> str:
    """The document of fidelity.run_fidelity as HTML. What comes from files is escaped."""
    models, kl = result["models"], result["kl"]
    title = f"{models['candidate']} beside {models['base']}"
    return "\n".join([
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}: <b>{escape(result['band'])}</b></h1>",
        f"<p>KL divergence {kl['mean']:.5f} nats a token, 95 % interval {_span(kl['ci95'])}, over {result['tokens']:,} "
        f"tokens, both models on the kernels that serve ({escape(result['backend'])}). The band is that of the "
        "interval's upper end.</p>",
        _table(("", "value", "95 % interval", "noise floor"), _figure_rows(result)),
        _table(("", "base", "candidate", "ratio"), _cost_rows(result)),
        "<p>Speeds are medians, in brackets the slowest and the fastest. The noise floor is the base in fp32 against "
        "the base in bf16: what rounding alone does.</p>",
        "<h2>KL by place in the text</h2>", _by_position(result),
        "<h2>Share of tokens by KL</h2>", _by_share(result),
        "<h2>Size and quality</h2>", _size_quality(result),
        f"<p><small>Text: {', '.join(map(escape, result['text']['sha256']))}, {result['text']['chunks']} chunks of "
        f"{result['text']['chunk']} tokens, the second half of each scored. Intervals: bootstrap over chunks, 2,000 "
        "draws. All of it as numbers: report.json.</small></p></html>", ""])


def _figure_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    floor = result["noise_floor"]
    for label, key in (("KL, mean", "mean"), ("KL, median", "median"), ("KL, 99 %", "p99"), ("KL, largest", "max")):
        limits = result["kl"].get("ci95" if key == "mean" else f"{key}_ci95")
        yield (label, f"{result['kl'][key]:.5f}", _span(limits) if limits else "", f"{floor['kl'][key]:.5f}")
    top, delta, perplexity = (result[key] for key in ("top1_agreement", "rms_delta_p", "perplexity"))
    yield ("same likeliest token", f"{top['value']:.2%}", f"{top['ci95'][0]:.2%} to {top['ci95'][1]:.2%}",
           f"{floor['top1_agreement']['value']:.2%}")
    yield ("RMS change of the true token's probability", f"{delta['value']:.2%}",
           f"{delta['ci95'][0]:.2%} to {delta['ci95'][1]:.2%}", f"{floor['rms_delta_p']['value']:.2%}")
    yield (f"perplexity, {format_figure(perplexity['base'])} to {format_figure(perplexity['candidate'])}: ratio",
           f"{perplexity['ratio']:.5f}", _span(perplexity["ci95"]), f"{floor['perplexity']['ratio']:.5f}")


def _cost_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    sizes, cost = result["bytes"], result["footprint"]
    yield ("weights on disk", *(format_bytes(sizes[name]) for name in ("base", "candidate")),
           f"{sizes['candidate'] / sizes['base']:.2f}")
    for label, key, span, form in (("peak memory, GiB", "peak_rss_gib", None, ".2f"),
                                   ("prompt, tokens/s", "prefill_tokens_per_s", "prefill_range", ",.0f"),
                                   ("one answer, tokens/s", "decode_tokens_per_s", "decode_range", ",.1f")):
        found = [cost[name][key] for name in ("base", "candidate")]
        ranges = [cost[name][span] if span else () for name in ("base", "candidate")]
        cells = [f"{value:{form}}" + (f" ({limits[0]:{form}} to {limits[1]:{form}})" if limits else "")
                 for value, limits in zip(found, ranges, strict=True)]
        yield (label, *cells, f"{found[1] / found[0]:.2f}" if found[0] else "")


def _by_position(result: Mapping[str, Any]) -> str:
    values, length = result["kl_by_position"], result["text"]["chunk"]
    step = length / 2 / len(values)
    points = [(length / 2 + (i + 0.5) * step, value) for i, value in enumerate(values)]
    return _plot(points, (length / 2, length), "place in the chunk", "mean KL")


def _by_share(result: Mapping[str, Any]) -> str:
    points = [(float(percent), max(value, 1e-8)) for percent, value in enumerate(result["kl_shares"])]
    return _plot(points, (0, 100), "% of tokens below", "KL", logarithmic=True)


def _size_quality(result: Mapping[str, Any]) -> str:
    """The candidate's place between the bands."""
    size = result["bytes"]["candidate"] / result["bytes"]["base"]
    point, high = (size, max(result["kl"]["mean"], 1e-6)), max(2 * result["kl"]["ci95"][1], 0.1)
    bands = [(limit, name) for limit, name in BANDS if limit < high]
    return _plot([point], (0, max(1.0, 1.1 * size)), "bytes, as a share of the base's", "mean KL",
                 logarithmic=True, limits=(min(1e-4, point[1] / 2), high), marks=bands)


def _plot(points: Sequence[Point], across: Point, x_label: str, y_label: str, *, logarithmic: bool = False,
          limits: Point | None = None, marks: Sequence[tuple[float, str]] = ()) -> str:
    """A line, or one dot, over the range `across`, with levels `marks` that have names."""
    values = [y for _, y in points]
    low, high = limits or ((min(values) if logarithmic else 0.0), max(values) or 1.0)
    scale = math.log10 if logarithmic else float
    bottom, height = scale(low), (scale(high) - scale(low)) or 1.0

    def place(x: float, y: float) -> Point:
        return (_LEFT + (x - across[0]) / (across[1] - across[0]) * (_WIDTH - _LEFT - 16),
                _HEIGHT - _BOTTOM - (scale(y) - bottom) / height * (_HEIGHT - _BOTTOM - _TOP))

    levels = [(low, f"{low:.2g}"), (high, f"{high:.2g}"), *((level, f"{name} {level}") for level, name in marks)]
    parts = []
    for at, (level, name) in enumerate(levels):
        y = place(across[0], level)[1]
        anchor = f'x="{_LEFT - 6}" text-anchor="end"' if at < 2 else f'x="{_WIDTH - 20}" text-anchor="end"'
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - 16}" stroke="var(--line)"/>'
                     f'<text {anchor} y="{y - 3 if at > 1 else y + 4:.1f}">{escape(name)}</text>')
    places = [place(*point) for point in points]
    if len(places) == 1:
        parts.append(f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="5" fill="var(--mark)"/>')
    else:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="var(--mark)" stroke-width="2"/>')
    parts += [f'<text x="{x}" y="{_HEIGHT - 16}" text-anchor="{anchor}">{value:g}</text>'
              for x, anchor, value in ((_LEFT, "start", across[0]), (_WIDTH - 16, "end", across[1]))]
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    return (f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">'
            + "".join(parts) + "</svg>")


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return ("<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"
            + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>")


def _span(limits: Sequence[float]) -> str:
    return f"{limits[0]:.5f} to {limits[1]:.5f}"
