"""What a run leaves behind to be read: tables, flat JSON and pictures; nothing here knows Lightning."""

from lightning_app.core.files import write_atomically
from lightning_app.report.figures import face_grid, gate_heatmap, png_bytes
from lightning_app.report.tables import print_table, read_metrics, rows_of, write_metrics

__all__ = [
    "face_grid",
    "gate_heatmap",
    "png_bytes",
    "print_table",
    "read_metrics",
    "rows_of",
    "write_atomically",
    "write_metrics",
]
