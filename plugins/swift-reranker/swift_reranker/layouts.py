from swift_core.spec import Column

COLUMNS = (
    Column(name="query", type="text", meaning="q"),
    Column(name="documents", type="list[text]", meaning="d"),
    Column(name="labels", type="list[number]", meaning="l", required=False),
    Column(name="scores", type="list[number]", meaning="l", required=False),
    Column(name="query_id", type="text", meaning="l", required=False),
    Column(name="document_ids", type="list[text]", meaning="l", required=False),
)
LAYOUTS = ()
FOLDERS = ()


def gather(records):
    return records, None
