"""Draw docs/architecture.svg from the imports of the code (`make drawing`).

A box is a package of landmark/, one row above the highest package that it imports. Arrows point to
the imported packages; those that follow from other arrows are left out.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "architecture.svg"
# Imported by everybody: one bar at the bottom, without arrows.
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
    """Name of the package, or of the module directly in landmark/."""
    return path.relative_to(ROOT / "landmark").with_suffix("").parts[0]


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Packages of landmark/ → the packages that they import, those of the ground floor left out."""
    found: dict[str, set[str]] = {}
    for path in sorted((root / "landmark").rglob("*.py")):
        name = package_of(path)
        if name.startswith("__") or name in GROUND:
            continue
        imported = found.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom) and node.module == "landmark":
                modules = [f"landmark.{alias.name}" for alias in node.names]
            tops = {m.split(".")[1] for m in modules if m.startswith("landmark.")}
            imported |= {top for top in tops if not top.startswith("_")} - {name, *GROUND}
    return found


def rows(graph: dict[str, set[str]]) -> dict[str, int]:
    """Row of each package: one above the highest that it imports."""
    row: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in row:
            row[name] = max((of(other) + 1 for other in graph[name]), default=0)
        return row[name]

    for name in graph:
        of(name)
    return row


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports that do not follow from others: the transitive reduction."""

    def reached(name: str) -> set[str]:
        return graph[name].union(*(reached(other) for other in graph[name]))

    return {
        name: others - set().union(*(reached(other) for other in others))
        for name, others in graph.items()
    }


def places(graph: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Centre of each box; within a row, packages stand near those that they import."""
    row, place = rows(graph), dict[str, tuple[float, float]]()
    height = max(row.values())
    edges = direct(graph)
    for level in range(height + 1):
        names = sorted(name for name in graph if row[name] == level)

        def wish(name: str) -> float:
            columns = [place[other][0] for other in edges[name]]
            return sum(columns) / len(columns) if columns else WIDTH / 2

        names.sort(key=lambda name: (wish(name), name))
        left = WIDTH / 2 - COLUMN * (len(names) - 1) / 2
        for column, name in enumerate(names):
            place[name] = left + COLUMN * column, ROW * (height - level) + 40.0
    return place


def draw(graph: dict[str, set[str]]) -> str:
    """The SVG."""
    place, edges = places(graph), direct(graph)
    bottom = max(y for _, y in place.values()) + ROW * 0.75
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
            (x1, y1), (x2, y2) = place[name], place[other]
            y1, y2 = y1 + BOX_HEIGHT / 2, y2 - BOX_HEIGHT / 2
            bend = (y2 - y1) / 2
            parts.append(
                f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} '
                f'{x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}"/>'
            )
    parts += [_box(name, *place[name], BOX_WIDTH) for name in sorted(place)]
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
