"""The files that the image brings: configuration, pages, content types."""

FORMATS = {
    "combined": '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
    '"$http_referer" "$http_user_agent"',
    "main": '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
    '"$http_referer" "$http_user_agent" "$http_x_forwarded_for"',
}

TYPES = {
    "html": "text/html", "htm": "text/html", "shtml": "text/html", "css": "text/css", "xml": "text/xml",
    "gif": "image/gif", "jpeg": "image/jpeg", "jpg": "image/jpeg", "js": "application/javascript",
    "mjs": "application/javascript", "txt": "text/plain", "png": "image/png", "svg": "image/svg+xml",
    "svgz": "image/svg+xml", "webp": "image/webp", "avif": "image/avif", "ico": "image/x-icon", "bmp": "image/x-ms-bmp",
    "woff": "font/woff", "woff2": "font/woff2", "json": "application/json", "pdf": "application/pdf",
    "wasm": "application/wasm", "zip": "application/zip", "mp3": "audio/mpeg", "mp4": "video/mp4", "webm": "video/webm",
    "atom": "application/atom+xml", "rss": "application/rss+xml", "xhtml": "application/xhtml+xml",
}  # fmt: skip

_TYPE_LINES = "".join(f"    {kind} {extension};\n" for extension, kind in TYPES.items())

_PAGE = """<!DOCTYPE html>
<html>
<head>
<title>{title}</title>
</head>
<body>
<h1>{title}</h1>
<p>{text}</p>
</body>
</html>
"""

FILES = {
    "/etc/nginx/nginx.conf": f"""user  nginx;
worker_processes  auto;
error_log  /dev/stderr notice;
pid        /run/nginx.pid;

events {{
    worker_connections  1024;
}}

http {{
    include       /etc/nginx/mime.types;
    default_type  application/octet-stream;
    log_format  main  '{FORMATS["main"]}';
    access_log  /dev/stdout  main;
    keepalive_timeout  65;
    include /etc/nginx/conf.d/*.conf;
}}
""",
    "/etc/nginx/mime.types": f"types {{\n{_TYPE_LINES}}}\n",
    "/etc/nginx/conf.d/default.conf": """server {
    listen       80;
    listen  [::]:80;
    server_name  localhost;

    location / {
        root   /usr/share/nginx/html;
        index  index.html index.htm;
    }

    error_page   500 502 503 504  /50x.html;
    location = /50x.html {
        root   /usr/share/nginx/html;
    }
}
""",
    "/usr/share/nginx/html/index.html": _PAGE.format(
        title="Welcome to nginx!", text="This is the lab's nginx: it serves static content and needs no configuration."
    ),
    "/usr/share/nginx/html/50x.html": _PAGE.format(title="An error occurred.", text="Please try again later."),
}
"""Path -> text."""
