"""What is proven: lower bounds on training losses, with evidence that anybody can check again in exact arithmetic."""

from .certificate import Certificate, CertificateError
from .checker import Bound, NotACertificate, check
from .incumbent import Incumbent, train_incumbent
from .outputs_incumbent import train_outputs
from .outputs_problem import OutputsProblem
from .outputs_support import largest_outputs_weight_decay
from .problem import TwoLayerProblem, prepare
from .search import certify
from .support import largest_weight_decay

__all__ = [
    "Bound",
    "Certificate",
    "CertificateError",
    "Incumbent",
    "NotACertificate",
    "OutputsProblem",
    "TwoLayerProblem",
    "certify",
    "check",
    "largest_outputs_weight_decay",
    "largest_weight_decay",
    "prepare",
    "train_incumbent",
    "train_outputs",
]
