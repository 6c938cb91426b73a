"""What a desensitized set gives away, measured; and the judges that look for a person in it."""

from lightning_app.evaluation.judges import DlibJudge, Judge, OnnxJudge, RecogniserJudge

__all__ = ["DlibJudge", "Judge", "OnnxJudge", "RecogniserJudge"]
