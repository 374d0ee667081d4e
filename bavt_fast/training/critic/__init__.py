"""Training a critic for a model as it is: a value head on the hidden states that its own steps leave behind.

visits   the states that a search comes to (`visits.py`)
labels   whether an answer can be reached from each: an exact oracle, or the verifier over completions (`labels.py`);
         or steps that somebody has labelled (`process_data.py`)
fit      a head that predicts the labels, calibrated on questions of its own (`fit.py`)
file     `bavt_fast.critics.critic_file`
"""

from __future__ import annotations

from bavt_fast._optional import needs

with needs("torch", __name__):
    from bavt_fast.training.critic.course import CriticConfig, train_critic
    from bavt_fast.training.critic.fit import Figures, Fitted, fit_head
    from bavt_fast.training.critic.labels import label_by_completions, label_by_oracle
    from bavt_fast.training.critic.visits import Visits, collect_visits

__all__ = [
    "CriticConfig",
    "Figures",
    "Fitted",
    "Visits",
    "collect_visits",
    "fit_head",
    "label_by_completions",
    "label_by_oracle",
    "train_critic",
]
