"""The stages of making a trace, in order: plan, layer inputs, solving, choosing, checking."""
