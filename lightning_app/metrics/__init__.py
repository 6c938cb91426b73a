"""Image similarity and verification: pure functions, and torchmetrics classes over them."""

from lightning_app.metrics.ssim import dssim, psnr, ssim, ssim_map
from lightning_app.metrics.stateful import DSSIM, PSNR, Verification
from lightning_app.metrics.verification import VerificationResult, verification

__all__ = [
    "DSSIM",
    "PSNR",
    "Verification",
    "VerificationResult",
    "dssim",
    "psnr",
    "ssim",
    "ssim_map",
    "verification",
]
