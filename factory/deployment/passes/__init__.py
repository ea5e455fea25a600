"""passes: the rewrites that clean an exported graph, one a file, in the order they run."""

from __future__ import annotations

from factory.deployment.passes.base import Pass, clean_model, run_passes
from factory.deployment.passes.clear_names import clear_names
from factory.deployment.passes.deduplicate_initialisers import deduplicate_initialisers
from factory.deployment.passes.fold_batch_norm import fold_batch_norm
from factory.deployment.passes.fold_batch_norm_into_concat import fold_batch_norm_into_concat
from factory.deployment.passes.fold_constants import fold_constants
from factory.deployment.passes.global_average_pool import global_average_pool
from factory.deployment.passes.inline_functions import inline_functions
from factory.deployment.passes.merge_slices import merge_slices
from factory.deployment.passes.remove_dropout import remove_dropout
from factory.deployment.passes.remove_identity import remove_identity
from factory.deployment.passes.remove_unused import remove_unused
from factory.deployment.passes.remove_zero_bias import remove_zero_bias
from factory.deployment.passes.reshape_to_flatten import reshape_to_flatten
from factory.deployment.passes.share_unary import share_unary

PASSES: tuple[Pass, ...] = (
    inline_functions,
    fold_constants,
    remove_dropout,
    remove_identity,
    remove_zero_bias,
    fold_batch_norm,
    fold_batch_norm_into_concat,
    global_average_pool,
    reshape_to_flatten,
    merge_slices,
    share_unary,
    remove_unused,
    deduplicate_initialisers,
    clear_names,
)

__all__ = ["PASSES", "Pass", "clean_model", "run_passes"]
