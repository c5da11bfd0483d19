"""The human study: tasks, answers, analysis."""
