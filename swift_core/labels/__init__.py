"""Labels: names that a team gives to its kinds of runs, with defaults, owners, gates and a policy.

``definitions`` what a labels file holds; ``reading`` and ``toml_lines`` the file; ``finding`` where it is;
``names`` and ``policy`` what is allowed to whom; ``applying`` a label to a run; ``gates`` and ``verdicts``
whether a run is good enough; ``changes`` edits of the file; ``schema`` its JSON Schema. None imports torch.
"""
