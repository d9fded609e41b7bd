"""A small HTTP face for chdb, the ClickHouse engine in process: for tests only.

    chdb_http.py DIRECTORY

One query at a time; a query's database and format are taken from the URL and the statement, as
ClickHouse's own HTTP interface does. It says its port, and ends when its
standard input does.
"""
import http.server, os, re, sys, tempfile, threading, urllib.parse
from chdb import session

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
engine = session.Session(os.path.join(directory, "data"))
turn = threading.Lock()
LAST_FORMAT = re.compile(rb"\sFORMAT\s+(\w+)\s*$", re.I)
SETTINGS = {"max_rows_to_group_by", "group_by_overflow_mode", "min_insert_block_size_rows",
            "min_insert_block_size_bytes", "max_query_size"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(200, b"Ok.\n")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        statement = url.get("query", "").encode()
        data = body if statement else b""
        statement = statement or body
        try:
            with turn:
                self.answer(200, self.run(statement, data, url))
        except Exception as error:
            self.answer(500, str(error).encode())

    def run(self, statement, data, url):
        engine.query("USE `%s`" % url.get("database", "default"))
        for name in SETTINGS & url.keys():
            engine.query("SET %s = '%s'" % (name, url[name]))
        found = LAST_FORMAT.search(statement)
        kind = found.group(1).decode() if found else "TabSeparated"
        sql = LAST_FORMAT.sub(b"", statement).decode()
        if sql.lstrip().upper().startswith("INSERT") and found:
            with tempfile.NamedTemporaryFile(dir=directory) as file:
                file.write(data)
                file.flush()
                engine.query("%s SELECT * FROM file('%s', '%s') "
                             "SETTINGS use_structure_from_insertion_table_in_table_functions = 1"
                             % (sql, file.name, kind))
            return b""
        result = engine.query(sql, kind)
        for name in SETTINGS & url.keys():
            engine.query("SET %s = DEFAULT" % name)
        return bytes(result.bytes()) if result is not None and result.bytes() else b""

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
os._exit(0)
