"""grpcio's client against its server, through a proxy: `grpcio.py serve` prints its port, `grpcio.py run TARGET [CA]` tries.

Messages are bytes, so that no code has to be generated.
"""
import concurrent.futures
import sys
import threading
import time

import grpc

SERVICE = "wire.Echo"


def unary(request, context):
    if request == b"fail":
        context.set_trailing_metadata((("detail-bin", b"\x00\xff"), ("where", "here")))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "so it is: 100 % ü")
    if request == b"hang":
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(20)
        CANCELLED.set()
        return b""
    if request == b"was it cancelled":
        return b"yes" if CANCELLED.wait(10) else b"no"
    sent = dict(context.invocation_metadata())
    context.send_initial_metadata((("seen", sent.get("token", "")),))
    return request


def down(request, context):
    for i in range(int(request)):
        yield str(i).encode()


def up(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def both(requests, context):
    for request in requests:
        yield request[::-1]


CANCELLED = threading.Event()


def serve():
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(16),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def fails(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"it is no {code}")


class Tries:
    def __init__(self, channel):
        self.unary = channel.unary_unary(f"/{SERVICE}/Unary")
        self.down = channel.unary_stream(f"/{SERVICE}/Down")
        self.up = channel.stream_unary(f"/{SERVICE}/Up")
        self.both = channel.stream_stream(f"/{SERVICE}/Both")
        self.absent = channel.unary_unary(f"/{SERVICE}/Absent")

    def a_unary_call(self):
        assert self.unary(b"hello", timeout=20) == b"hello"

    def nothing_at_all(self):
        assert self.unary(b"", timeout=20) == b""

    def eight_mebibytes_each_way(self):
        large = bytes(range(256)) * 32768
        assert self.unary(large, timeout=20) == large

    def metadata_each_way(self):
        _, call = self.unary.with_call(b"x", metadata=(("token", "t1"),), timeout=20)
        assert dict(call.initial_metadata())["seen"] == "t1"

    def a_thousand_answers(self):
        assert [int(n) for n in self.down(b"1000", timeout=20)] == list(range(1000))

    def a_thousand_questions(self):
        assert self.up((b"abc" for _ in range(1000)), timeout=20) == b"3000"

    def question_and_answer_in_turn(self):
        answered = threading.Semaphore(1)

        def questions():
            for i in range(100):
                assert answered.acquire(timeout=20)
                yield f"ab{i}".encode()

        for i, answer in enumerate(self.both(questions(), timeout=20)):
            assert answer == f"ab{i}".encode()[::-1]
            answered.release()
        assert i == 99

    def a_status_with_its_trailers(self):
        error = fails(lambda: self.unary(b"fail", timeout=20), grpc.StatusCode.FAILED_PRECONDITION)
        assert error.details() == "so it is: 100 % ü", error.details()
        trailers = dict(error.trailing_metadata())
        assert trailers["detail-bin"] == b"\x00\xff" and trailers["where"] == "here", trailers

    def a_method_that_is_not_there(self):
        fails(lambda: self.absent(b"", timeout=20), grpc.StatusCode.UNIMPLEMENTED)

    def a_deadline_and_that_the_server_hears_of_it(self):
        begun = time.monotonic()
        fails(lambda: self.unary(b"hang", timeout=0.5), grpc.StatusCode.DEADLINE_EXCEEDED)
        assert time.monotonic() - begun < 10
        assert self.unary(b"was it cancelled", timeout=20) == b"yes"

    def a_stream_that_is_given_up(self):
        answers = self.down(b"100000000", timeout=20)
        assert next(answers) == b"0"
        answers.cancel()
        fails(lambda: list(answers), grpc.StatusCode.CANCELLED)

    def a_hundred_calls_at_once(self):
        calls = [self.unary.future(str(i).encode(), timeout=20) for i in range(100)]
        assert [call.result() for call in calls] == [str(i).encode() for i in range(100)]


def run(target, ca=None):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if ca:
        with open(ca, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        channel = grpc.secure_channel(target, credentials, [*options, ("grpc.ssl_target_name_override", "web")])
    else:
        channel = grpc.insecure_channel(target, options)
    status = 0
    with channel:
        tries = Tries(channel)
        for name in [name for name in vars(Tries) if not name.startswith("_")]:
            try:
                getattr(tries, name)()
                print(f"ok {name.replace('_', ' ')}")
            except Exception as error:
                print(f"not ok {name.replace('_', ' ')}: {error!r}".replace("\n", " "))
    return status


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        run(*sys.argv[2:])
