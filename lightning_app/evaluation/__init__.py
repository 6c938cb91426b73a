"""What a desensitized set gives away, measured; and the judges that look for a person in it."""

from lightning_app.evaluation.judges import DlibJudge, Judge, LinkJudge, OnnxJudge, RecogniserJudge

__all__ = ["DlibJudge", "Judge", "LinkJudge", "OnnxJudge", "RecogniserJudge"]
