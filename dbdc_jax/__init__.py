"""Double Bank Dual Consistency: training, prediction, evaluation."""

__version__ = '0.1.0'
