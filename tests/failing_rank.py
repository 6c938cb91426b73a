"""`main.py` with a rank whose images cannot be decoded from its third batch on, while the others wait or sleep.

FAILING_RANK: which. OTHERS: `wait` in a collective, or `sleep` where no collective is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from datamodules import FolderFaces
from datamodules.readers.bad_images import BadImage
from lightning_app.core.batch import Batch
from main import main

rank = int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)
failing = rank == int(os.environ["FAILING_RANK"])
batches = 0
whole = FolderFaces.__getitems__


def third_time(reader: FolderFaces, indices: Sequence[int]) -> Batch:
    global batches
    batches += 1
    if batches >= 3 and failing:
        raise BadImage(f"{reader.name(indices[0])}: cannot be decoded")
    if batches >= 3 and os.environ["OTHERS"] == "sleep":
        time.sleep(600)
    return whole(reader, indices)


if __name__ == "__main__":
    FolderFaces.__getitems__ = third_time  # type: ignore[assignment, method-assign]
    main()
