"""The same training in other forms that PyTorch's users choose for speed, for the benchmark.

Each is a `Trainer` with another `run_epoch`. `Trainer` itself is the eager rung.
"""

from itertools import batched
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.weights import Parameters
from reference_torch.article_loop import Images
from reference_torch.trainer import Trainer, gather, normalize
