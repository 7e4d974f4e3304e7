"""Draw docs/architecture.svg from the imports of the code (`make drawing`).

Each box is a package of landmark/, one row above the highest package that it imports. Arrows point
to the imported packages; arrows that follow from others are omitted.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "architecture.svg"
# Packages that every other one may import: one bar at the bottom, without arrows.
GROUND = ("error", "disk", "processes", "device", "settings")
WIDTH, ROW, BOX_WIDTH, BOX_HEIGHT, GAP = 1200, 92, 120, 36, 24
COLUMN = BOX_WIDTH + GAP
STYLE = """
text { font: 15px sans-serif; text-anchor: middle; fill: #222 }
rect { fill: #eef3fb; stroke: #4a6fa5; rx: 6 }
.ground { fill: #f3f0e8; stroke: #9a8a5a }
path { fill: none; stroke: #7a8aa5; stroke-width: 1.2; marker-end: url(#arrow) }
"""


def package_of(path: Path) -> str:
    """Return the name of a file's package, or of its module in landmark/."""
    return path.relative_to(ROOT / "landmark").with_suffix("").parts[0]


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Map each package of landmark/ to the packages that it imports, without GROUND."""
    graph: dict[str, set[str]] = {}
    for path in sorted((root / "landmark").rglob("*.py")):
        name = package_of(path)
        if name.startswith("__") or name in GROUND:
            continue
        imported = graph.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom) and node.module == "landmark":
                modules = [f"landmark.{alias.name}" for alias in node.names]
            packages = {m.split(".")[1] for m in modules if m.startswith("landmark.")}
            imported |= {top for top in packages if not top.startswith("_")} - {name, *GROUND}
    return graph


def rows(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return the row of each package: one above the highest that it imports."""
    row: dict[str, int] = {}

    def place(name: str) -> int:
        if name not in row:
            row[name] = max((place(other) + 1 for other in graph[name]), default=0)
        return row[name]

    for name in graph:
        place(name)
    return row


def transitive_reduction(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports that do not follow from other imports."""

    def reachable(name: str) -> set[str]:
        return graph[name].union(*(reachable(other) for other in graph[name]))

    return {
        name: others - set().union(*(reachable(other) for other in others))
        for name, others in graph.items()
    }


def centres(graph: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Return the centre of each box; within a row, packages are near those that they import."""
    row, centre = rows(graph), dict[str, tuple[float, float]]()
    height = max(row.values())
    edges = transitive_reduction(graph)
    for level in range(height + 1):
        names = sorted(name for name in graph if row[name] == level)

        def mean_x(name: str) -> float:
            xs = [centre[other][0] for other in edges[name]]
            return sum(xs) / len(xs) if xs else WIDTH / 2

        names.sort(key=lambda name: (mean_x(name), name))
        left = WIDTH / 2 - COLUMN * (len(names) - 1) / 2
        for column, name in enumerate(names):
            centre[name] = left + COLUMN * column, ROW * (height - level) + 40.0
    return centre


def draw(graph: dict[str, set[str]]) -> str:
    """Return the SVG."""
    centre, edges = centres(graph), transitive_reduction(graph)
    bottom = max(y for _, y in centre.values()) + ROW * 0.75
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 34:.0f}">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L10,5 L0,10 z" '
        'style="fill:#7a8aa5;stroke:none;marker-end:none"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{bottom + 34:.0f}" style="fill:white;stroke:none;rx:0"/>',
    ]
    for name in sorted(edges):
        for other in sorted(edges[name]):
            (x1, y1), (x2, y2) = centre[name], centre[other]
            y1, y2 = y1 + BOX_HEIGHT / 2, y2 - BOX_HEIGHT / 2
            bend = (y2 - y1) / 2
            parts.append(
                f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} '
                f'{x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}"/>'
            )
    parts += [_box(name, *centre[name], BOX_WIDTH) for name in sorted(centre)]
    parts.append(_box(" · ".join(GROUND), WIDTH / 2, bottom, WIDTH - 60, "ground"))
    return "\n".join([*parts, "</svg>", ""])


def _box(name: str, x: float, y: float, width: float, style: str = "") -> str:
    left, top = x - width / 2, y - BOX_HEIGHT / 2
    return (
        f'<rect class="{style}" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" '
        f'height="{BOX_HEIGHT}"/><text x="{x:.0f}" y="{y + 5:.0f}">{name}</text>'
    )


if __name__ == "__main__":
    DRAWING.write_text(draw(imports()))
    print(f"wrote {DRAWING}")
