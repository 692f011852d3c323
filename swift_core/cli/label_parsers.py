"""The arguments of ``swift labels``; nothing of the labels themselves is imported to print them."""

from __future__ import annotations

import argparse


def add_labels(parser: argparse.ArgumentParser) -> None:
    """The actions of ``swift labels``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = actions.add_parser("list", help="the labels of the file that holds here")
    show = actions.add_parser("show", help="one label")
    check = actions.add_parser("check", help="look for faults of the file and of each label; for CI")
    propose = actions.add_parser("propose", help="append a label to the file, and show the change")
    approve = actions.add_parser("approve", help="approve a label in the file, and show the change")
    retire = actions.add_parser("retire", help="retire a label in the file, and show the change")
    rename = actions.add_parser("rename", help="give a label another name, under which its runs are found")
    schema = actions.add_parser("schema", help="print the JSON Schema of the file")
    for action in (show, propose, approve, retire):
        action.add_argument("name", metavar="NAME")
    rename.add_argument("name", metavar="OLD", help="the label as it is called now")
    rename.add_argument("new", metavar="NEW", help="its name from now on")
    propose.add_argument("--extends", required=True, metavar="TASK", help="the task type that does the work")
    propose.add_argument("--description", default="", help="what runs of this label are for")
    propose.add_argument("--owner", action="append", default=[], metavar="GROUP", help="may be given again")
    propose.add_argument("--gate", action="append", default=[], metavar="GATE", help="may be given again")
    for action in (propose, approve, retire, rename):
        action.add_argument("--why", required=True, help="the reason, in a sentence")
        action.add_argument("--dry-run", action="store_true", help="show the change and write nothing")
    for action in (listing, show, check, propose, approve, retire, rename):
        add_labels_file(action)
    for action in (listing, show):
        action.add_argument("--json", action="store_true", help="print JSON")
    for action in (schema, check, propose, approve, retire, rename):
        action.set_defaults(json=False)


def add_labels_file(parser: argparse.ArgumentParser) -> None:
    """Where the labels are, for commands that have no run file."""
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="the labels file, or its https address; default: SWIFT_LABELS, else labels.toml here or above",
    )
