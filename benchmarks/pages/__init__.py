"""The report: what it says (content, fleet), as Markdown and as one HTML page; and README's figures. All of it is made
from a file of results alone.
"""
