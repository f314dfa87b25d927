"""What is proven: lower bounds on training losses, with evidence that anybody can check again in exact arithmetic."""

from .certificate import Certificate, CertificateError
from .checker import Bound, NotACertificate, check
from .deep_incumbent import DeepIncumbent, train_deep
from .deep_problem import DeepProblem
from .incumbent import Incumbent, train_incumbent
from .lipschitz_search import certify_deep
from .operator_norm import matrix_norm_bound
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
    "DeepIncumbent",
    "DeepProblem",
    "Incumbent",
    "NotACertificate",
    "OutputsProblem",
    "TwoLayerProblem",
    "certify",
    "certify_deep",
    "check",
    "largest_outputs_weight_decay",
    "largest_weight_decay",
    "matrix_norm_bound",
    "prepare",
    "train_deep",
    "train_incumbent",
    "train_outputs",
]
