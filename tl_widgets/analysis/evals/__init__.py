"""How well a model predicts: text of several kinds, repeated tokens, indirect objects, multiple choice."""

from tl_widgets.analysis.evals.ioi import IOIDataset, ioi_eval
from tl_widgets.analysis.evals.language import (
    evaluate,
    evaluate_on_dataset,
    induction_loss,
    make_code_data_loader,
    make_owt_data_loader,
    make_pile_data_loader,
    make_wiki_data_loader,
    sanity_check,
)
from tl_widgets.analysis.evals.mmlu import MMLU_SUBJECTS, make_mmlu_data_loader, mmlu_eval

__all__ = [
    "MMLU_SUBJECTS",
    "IOIDataset",
    "evaluate",
    "evaluate_on_dataset",
    "induction_loss",
    "ioi_eval",
    "make_code_data_loader",
    "make_mmlu_data_loader",
    "make_owt_data_loader",
    "make_pile_data_loader",
    "make_wiki_data_loader",
    "mmlu_eval",
    "sanity_check",
]
