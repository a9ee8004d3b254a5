"""The picture and the page of a finished sweep."""

from .figure import draw as draw
from .page import render as render
from .write import write_report as write_report
