"""The report of a run: one HTML file in its folder, by which a person sees whether the run is good."""

from trainer.report.page import write_report

__all__ = ["write_report"]
