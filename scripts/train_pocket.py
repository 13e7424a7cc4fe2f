"""Train the pocket model: text from rules and a seed, Nearfield's own model code, two CPU cores, no network.

    python scripts/train_pocket.py --out src/nearfield/assets/pocket

The batch of a step depends on the seed and the step's number alone, so a run that was cut off goes on
with --resume as if nothing had happened. At the end the saved bf16 weights are graded on held-out
questions; the figures are printed and written into the model card. AdamW trains the embedding and the
norms, Muon (Jordan et al. 2024) the layers' matrices: it needs fewer steps.
"""

import argparse
import math
import time
from dataclasses import dataclass
from functools import partial
from json import dumps
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from pocket.card import write_card
from pocket.checkpoint import load_checkpoint, save_checkpoint
from pocket.evaluate import Grade, answer_weights, grade, grade_stories, questions, write
from pocket.mix import documents, rows
from pocket.model import (
    GENERATION, Weights, forward, load_weights, pocket_spec, save_weights, starting_weights, write_config,
)
from pocket.template import ChatFormat
from pocket.tokenizer import save_tokenizer, train_tokenizer
from pocket.exchange import user
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
