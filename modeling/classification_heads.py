# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Classification and question-answering heads on the hybrid backbone; their forwards are the library's generic ones."""

from torch import nn
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from .configuration_hybrid_gdn import HybridGDNConfig
from .family_object import family_class_in
from .hybrid_backbone import HybridGDNModel, HybridGDNPreTrainedModel

TOKEN_DROPOUT = 0.1  # the library's, where the teacher's configuration names none


class HybridGDNWithHead(HybridGDNPreTrainedModel):
    """A backbone under the name that its family gives it, so that a causal student's weights load into it."""

    def _build_backbone(self, config: HybridGDNConfig) -> None:
        """Stands for the generic heads' constructor, whose `AutoModel` knows no student unless hf_tc is installed."""
        self._take_family_flags(family_class_in(MODEL_MAPPING, config.teacher_config))
        super().__init__(config)
        backbone = HybridGDNModel(config)
        self.__dict__["family"] = backbone.family
        assert config.num_labels is not None  # the library's configurations have two by default
        self.num_labels: int = config.num_labels
        setattr(self, self.base_model_prefix, backbone)


class HybridGDNForSequenceClassification(GenericForSequenceClassification, HybridGDNWithHead):
    """One class a sequence, read off its last token that is not padding."""

    def __init__(self, config: HybridGDNConfig) -> None:
        self._build_backbone(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()


class HybridGDNForTokenClassification(GenericForTokenClassification, HybridGDNWithHead):
    """One class a token."""

    def __init__(self, config: HybridGDNConfig) -> None:
        self._build_backbone(config)
        dropout = getattr(config, "classifier_dropout", None)
        self.dropout = nn.Dropout(TOKEN_DROPOUT if dropout is None else dropout)
        self.score = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()


class HybridGDNForQuestionAnswering(GenericForQuestionAnswering, HybridGDNWithHead):
    """Scores of the answer's first and last token."""

    get_input_embeddings = HybridGDNPreTrainedModel.get_input_embeddings
    set_input_embeddings = HybridGDNPreTrainedModel.set_input_embeddings

    def __init__(self, config: HybridGDNConfig) -> None:
        self._build_backbone(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()
