"""What is proven: lower bounds on training losses, with evidence that anybody can check again in exact arithmetic."""

from .certificate import Certificate, CertificateError
from .checker import Bound, NotACertificate, check
from .incumbent import Incumbent, train_incumbent
from .problem import TwoLayerProblem, prepare
from .search import certify
from .support import largest_weight_decay

__all__ = [
    "Bound",
    "Certificate",
    "CertificateError",
    "Incumbent",
    "NotACertificate",
    "TwoLayerProblem",
    "certify",
    "check",
    "largest_weight_decay",
    "prepare",
    "train_incumbent",
]
