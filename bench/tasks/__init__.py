"""What is trained on and how it is scored; the prompt of both comes from one lm-eval task definition."""

from bench.tasks.task import PreparedTask, ScoreSplit, Task

__all__ = ["PreparedTask", "ScoreSplit", "Task"]
