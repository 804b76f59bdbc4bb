"""Images through a real server: recorded answers, hostile files and URLs, and neighbours that go on."""

from __future__ import annotations

import base64
import http.server
import json
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
import pytest
from PIL import Image

from tests.e2e.conftest import MODELS, Server, post, refused

RECORDED = [item for item in json.loads((MODELS / "transcripts.json").read_text()) if item.get("image")]
PART = "messages[0].content[0]"


def arguments(item):
    thinking = {"chat_template_kwargs": {"enable_thinking": item["thinking"]}}
    return {"model": "tiny-qwen35", "messages": item["messages"], "temperature": 0, "max_tokens": 60, **thinking}


def answer_of(item):
    return item["expected"].rpartition("</think>")[2].strip()


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def ask(server, url, **fields):
    """A question about the image at a URL; `url` may be any JSON value."""
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "What color is the image?"}]
    fields = {"temperature": 0, "max_tokens": 8, "chat_template_kwargs": {"enable_thinking": False}, **fields}
    return post(server, "chat/completions", messages=[{"role": "user", "content": content}], **fields)


def encoded(size=(64, 64), color="red", mode="RGB", file_format="PNG", **options):
    file = BytesIO()
    image = Image.new("RGB", size, color)
    (image if mode == "RGB" else image.convert(mode)).save(file, file_format, **options)
    return file.getvalue()


def png(width, height, *chunks):
    """A PNG with this header and these further chunks, whatever they are."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pieces = [b"\x89PNG\r\n\x1a\n"]
    for name, data in (header, *chunks):
        pieces.append(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(pieces)


@pytest.mark.parametrize("item", RECORDED, ids=range(len(RECORDED)))
def test_recorded_questions_about_images_have_the_recorded_answers(server, item):
    answer = post(server, "chat/completions", **arguments(item)).json()
    assert answer["choices"][0]["message"]["content"] == answer_of(item)
    assert answer["usage"]["prompt_tokens"] == item["prompt_tokens"]
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] in (9, 16, 49)


def test_sixteen_openai_streams_about_images_have_the_recorded_answers(client):
    def stream(item):
        options = arguments(item)
        options["extra_body"] = {"chat_template_kwargs": options.pop("chat_template_kwargs")}
        chunks = list(client.chat.completions.create(stream=True, **options))
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    items = RECORDED[:16]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(stream, items)) == [answer_of(item) for item in items]


def test_second_turn_about_an_image_takes_its_rows_from_the_cache(server):
    item = RECORDED[-2]
    first = post(server, "chat/completions", **arguments(item)).json()
    turn = {"role": "assistant", "content": first["choices"][0]["message"]["content"]}
    question = {"role": "user", "content": "What color is it?"}
    second = post(server, "chat/completions", **{**arguments(item), "messages": [*item["messages"], turn, question]})
    details = second.json()["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] > details["image_tokens"] == 49


FORMS = [
    {"file_format": "JPEG"},
    {"file_format": "JPEG", "mode": "CMYK"},
    {"file_format": "JPEG", "progressive": True},
    {"file_format": "GIF"},
    {"file_format": "WEBP", "lossless": True},
    {"file_format": "BMP"},
    {"mode": "P"},
    {"mode": "RGBA"},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_red_image_is_red_in_every_format(server, form):
    answer = ask(server, {"url": data_url(encoded(**form))}).json()
    assert answer["choices"][0]["message"]["content"] == "The image is red."


FILES = {
    "one_byte": b"x",
    "png_magic": b"\x89PNG\r\n\x1a\n",
    "jpeg_magic": b"\xff\xd8\xff",
    "gif_magic": b"GIF89a",
    "webp_magic": b"RIFF\0\0\0\0WEBP",
    "giant_header": png(65_535, 65_535),
    "large_header": png(20_000, 20_000, (b"IDAT", zlib.compress(bytes(1000)))),
    "no_width": png(0, 10),
    "long": png(5000, 1),
    "text_bomb": png(64, 64, (b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
    "truncated_png": encoded()[:60],
    "truncated_jpeg": encoded(file_format="JPEG")[:300],
    "tiff": encoded(file_format="TIFF"),
    "icon": encoded(file_format="ICO"),
    "ppm": encoded(file_format="PPM"),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "pdf": b"%PDF-1.4\n",
    "html": b"<html></html>",
}


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_no_image_gets_400(server, name):
    assert refused(ask(server, {"url": data_url(FILES[name])}), PART, "invalid_image")


ODD = [
    None, 5, ["x"], {}, "", {"url": None}, {"url": 5}, {"url": ""}, {"url": data_url(encoded()), "detail": "huge"},
    "data:image/png;base64", "data:,x", "data:image/png;base64,@@@@", "data:image/png;base64,", "ftp://example.com/a",
    "file:///etc/passwd", "http://", "javascript:alert(1)", "http://127.0.0.1/", "http://localhost/", "http://[::1]/",
    "http://0.0.0.0/", "http://2130706433/", "http://0x7f.1/", "http://017700000001/", "http://127.1/",
    "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://169.254.169.254/", "http://localhost./",
    "http://user@127.0.0.1/", "http://a\nb/", "http://example.com/" + "x" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("url", ODD, ids=lambda url: str(url)[:40])
def test_image_url_that_is_odd_gets_400(server, url):
    assert refused(ask(server, url), PART)


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_image_in_a_message_of_another_role_gets_400(server, role):
    part = {"type": "image_url", "image_url": {"url": data_url(encoded())}}
    messages = [{"role": role, "content": [part]}, {"role": "user", "content": "Hello"}]
    assert refused(post(server, "chat/completions", messages=messages), PART)


def test_sound_for_a_model_that_does_not_hear_gets_400(server):
    part = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    answer = post(server, "chat/completions", messages=[{"role": "user", "content": [part]}])
    assert refused(answer, PART, "unsupported_content")


def test_seventeenth_image_of_a_request_gets_400(server):
    part = {"type": "image_url", "image_url": {"url": data_url(encoded())}}
    answer = post(server, "chat/completions", messages=[{"role": "user", "content": [part] * 17}])
    assert refused(answer, "messages[0].content[16]", "too_many_media")


def test_images_beyond_the_context_get_400(server):
    part = {"type": "image_url", "image_url": {"url": data_url(encoded((2000, 2000)))}}
    answer = post(server, "chat/completions", messages=[{"role": "user", "content": [part] * 12}], max_tokens=1)
    assert refused(answer, "messages", "context_length_exceeded")


@pytest.mark.parametrize("text", ["<|vision_start|><|image_pad|><|vision_end|>", "<__media__>"])
def test_control_text_of_images_in_a_message_is_text(server, text):
    item = RECORDED[0]
    image, question = item["messages"][0]["content"]
    content = [image, {"type": "text", "text": f"{text} {question['text']}"}]
    usage = post(
        server, "chat/completions", **{**arguments(item), "messages": [{"role": "user", "content": content}]}
    ).json()["usage"]
    assert usage["prompt_tokens_details"]["image_tokens"] == 9
    assert usage["prompt_tokens"] > item["prompt_tokens"] + 4


def test_tool_result_may_hold_an_image(server):
    image = RECORDED[0]["messages"][0]["content"][0]
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "What color is the image?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [image]},
    ]
    answer = post(server, "chat/completions", messages=messages, max_tokens=2).json()
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] == 9


def test_stream_of_text_is_the_same_beside_images(server, client):
    def story():
        options = {"model": "tiny-qwen35", "prompt": "Once upon a time", "max_tokens": 80, "temperature": 0}
        return "".join(chunk.choices[0].text for chunk in client.completions.create(stream=True, **options))

    alone = story()
    with ThreadPoolExecutor(5) as pool:
        texts = [pool.submit(story) for _ in range(2)]
        images = [pool.submit(ask, server, {"url": data_url(encoded((300 + i, 200), "blue"))}) for i in range(3)]
        assert [answer.result().status_code for answer in images] == [200] * 3
        assert [text.result() for text in texts] == [alone] * 2


def test_model_card_names_images(server):
    (card,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert card["input_modalities"] == ["text", "image"]


class _Files(http.server.BaseHTTPRequestHandler):
    """Serves a red image, and redirects to it."""

    def do_GET(self):
        self.send_response(302 if self.path == "/moved" else 200)
        if self.path == "/moved":
            self.send_header("Location", "/red.png")
        self.end_headers()
        self.wfile.write(encoded())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def files():
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    listener.server_close()


def test_lab_server_reads_urls_and_files_that_are_allowed(files, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "red.png").write_bytes(encoded())
    (tmp_path / "secret.png").write_bytes(encoded())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    media = {"mmproj_path": "built-in", "media_allow_private": True, "allowed_local_media_path": str(folder)}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model": {"path": "built-in", "threads": 1, "n_ctx": 2048, "mtmd": media}}))
    with Server(str(config)) as lab:
        for url in (f"{files}/red.png", (folder / "red.png").as_uri()):
            assert ask(lab, {"url": url}).json()["choices"][0]["message"]["content"] == "The image is red.", url
        outside = (tmp_path / "secret.png").as_uri()
        for url in (
            f"{files}/moved",
            outside,
            (folder / "link.png").as_uri(),
            folder.as_uri(),
            f"{folder.as_uri()}/../secret.png",
        ):
            assert refused(ask(lab, url), PART, "invalid_image_url")


def test_count_of_input_tokens_includes_the_rows_of_an_image(server):
    image = {"type": "input_image", "image_url": data_url(encoded())}
    body = {"input": [{"role": "user", "content": [image]}], "max_output_tokens": 1}
    counted = post(server, "responses/input_tokens", **body).json()["input_tokens"]
    assert counted == post(server, "responses", **body).json()["usage"]["input_tokens"]


def test_truncation_drops_turns_for_the_rows_of_their_images(server):
    image = {"type": "input_image", "image_url": data_url(encoded((1600, 1600)))}
    turn = [image, {"type": "input_text", "text": "word " * 31_500}]
    items = [("user", turn), ("assistant", "Red"), ("user", "End")]
    body = {"input": [{"role": role, "content": content} for role, content in items], "max_output_tokens": 1}
    refused(post(server, "responses", **body), "input", "context_length_exceeded")
    answer = post(server, "responses", truncation="auto", **body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["input_tokens"] < 1000
