"""Any vision-language model of transformers as a contestant: zero-shot, tuned, with facial priors."""
