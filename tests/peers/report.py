"""What a comparison is shown as: a table, and bars as SVG."""
from html import escape

COLUMNS = f"{'engine':38}{'median ms':>10}{'low':>9}{'high':>9}{'sent/s':>9}{'min cosine':>12}{'peak MB':>9}{'ours / it':>11}"


def table(batch, tokens, rows):
    lines = [f"batch {batch}, {tokens} tokens", COLUMNS]
    for name, r in rows.items():
        lines.append(f"{name:38}{r['median_ms']:10.2f}{r['low_ms']:9.2f}{r['high_ms']:9.2f}{r['sentences_per_s']:9.1f}"
                     f"{r['cosine_min']:12.6f}{r['peak_mb']:9.0f}{r['ours_over_it']:11.3f}")
    return "\n".join(lines)


def chart(title, groups, path):
    """Bars of medians: one group for each shape, one bar for each engine. Ours are in another colour."""
    bar, gap, left, width = 18, 26, 250, 420
    parts, y = [], 50
    for heading, rows in groups:
        parts.append(f'<text x="10" y="{y}" class="h">{escape(heading)}</text>')
        y += 8
        longest = max(r["median_ms"] for r in rows.values())
        for name, r in rows.items():
            length = max(1, width * r["median_ms"] / longest)
            kind = "ours" if name.startswith("ostrakon") else "peer"
            parts.append(f'<text x="{left - 8}" y="{y + bar - 5}" class="n">{escape(name)}</text>'
                         f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 4}" class="{kind}"/>'
                         f'<text x="{left + length + 6:.1f}" y="{y + bar - 5}">{r["median_ms"]:.1f} ms</text>')
            y += bar
        y += gap
    style = ("text{font:12px sans-serif;fill:#222}.h{font-weight:bold}.n{text-anchor:end}.ours{fill:#c2410c}.peer{fill:#94a3b8}"
             "svg{background:#fff}")
    with open(path, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {y}" width="{left + width + 90}" height="{y}">'
                f'<rect width="100%" height="100%" fill="#fff"/><style>{style}</style>'
                f'<text x="10" y="22" class="h">{escape(title)}</text>{"".join(parts)}</svg>\n')
