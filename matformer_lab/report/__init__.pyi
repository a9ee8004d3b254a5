"""The report of a finished sweep: its picture and its page."""

from .figure import draw as draw
from .page import render as render
from .write import write_report as write_report
