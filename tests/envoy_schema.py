"""envoy_schema.py CONFIG.yaml PROTOS...: the file as Envoy's own message definitions have it, every typed_config
included: no field that they do not know, no value of another type, and the rules (protoc-gen-validate) that they carry.
PROTOS are folders of .proto files: `make envoy-check` gets them. What only a running Envoy can say, it cannot."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, json_format, message_factory

BOOTSTRAP = "envoy/config/bootstrap/v3/bootstrap.proto"


def load(folders: list[str], config: str) -> descriptor_pool.DescriptorPool:
    """The definitions of a bootstrap, and of each type that the file names."""
    wanted = {BOOTSTRAP}
    for full in re.findall(r"type\.googleapis\.com/([\w.]+)", config):
        package, name = full.rsplit(".", 1)
        at = package.replace(".", "/")
        for folder in folders:
            for file in os.scandir(os.path.join(folder, at)) if os.path.isdir(os.path.join(folder, at)) else ():
                if re.search(rf"^message {name} \{{", open(file).read(), re.M):
                    wanted.add(f"{at}/{file.name}")
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(["protoc", *(f"-I{f}" for f in folders), "--include_imports", f"--descriptor_set_out={out.name}",
                        *sorted(wanted)], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read())
    pool = descriptor_pool.DescriptorPool()
    for f in files.file:
        pool.Add(f)
    return pool


class Rules:
    def __init__(self, pool):
        self.pool, self.factory, self.checked = pool, message_factory.MessageFactory(pool), 0
        options = self.factory.GetPrototype(pool.FindMessageTypeByName("google.protobuf.FieldOptions"))
        oneofs = self.factory.GetPrototype(pool.FindMessageTypeByName("google.protobuf.OneofOptions"))
        self.field_options, self.oneof_options = options, oneofs
        self.rules, self.required = (pool.FindExtensionByName("validate." + n) for n in ("rules", "required"))
        for extension in (self.rules, self.required):
            owner = options if extension is self.rules else oneofs
            owner.RegisterExtension(extension)

    def of(self, field):
        o = self.field_options.FromString(field.GetOptions().SerializeToString())
        return o.Extensions[self.rules] if o.HasExtension(self.rules) else None

    def check(self, message, at: str) -> None:
        d = message.DESCRIPTOR
        if d.full_name == "google.protobuf.Any":
            name = message.type_url.rsplit("/", 1)[1]
            inner = self.factory.GetPrototype(self.pool.FindMessageTypeByName(name))()
            inner.ParseFromString(message.value)
            return self.check(inner, f"{at}<{name}>")
        for oneof in d.oneofs:
            o = self.oneof_options.FromString(oneof.GetOptions().SerializeToString())
            if o.HasExtension(self.required) and o.Extensions[self.required]:
                self.checked += 1
                assert message.WhichOneof(oneof.name), f"{at}: one of {oneof.name} is wanted"
        for field in d.fields:
            rules = self.of(field)
            if rules:
                self.field(message, field, rules, f"{at}.{field.name}")
        for field, value in message.ListFields():
            many = field.label == field.LABEL_REPEATED
            if field.type != field.TYPE_MESSAGE or field.message_type.GetOptions().map_entry:
                continue
            for i, one in enumerate(value if many else [value]):
                self.check(one, f"{at}.{field.name}" + (f"[{i}]" if many else ""))

    def field(self, message, field, rules, at: str) -> None:
        many = field.label == field.LABEL_REPEATED
        value = getattr(message, field.name)
        if field.containing_oneof and not message.HasField(field.name):
            return
        if rules.HasField("message") and rules.message.required:
            self.checked += 1
            assert message.HasField(field.name), f"{at} is wanted"
        kind = rules.WhichOneof("type")
        if not kind:
            return
        rule = getattr(rules, kind)
        if kind in ("repeated", "map"):
            self.checked += 1
            least = rule.min_items if kind == "repeated" else rule.min_pairs
            assert len(value) >= least, f"{at}: at least {least}"
        elif kind == "string" and not many:
            self.checked += 1
            assert len(value) >= rule.min_len, f"{at}: at least {rule.min_len} characters"
        elif kind != "enum" and hasattr(rule, "gte") and not many:
            if field.type == field.TYPE_MESSAGE:  # a duration or a wrapped number
                if not message.HasField(field.name):
                    return
                value = value.ToNanoseconds() if hasattr(value, "ToNanoseconds") else value.value
            self.checked += 1
            for name, good in (("gt", lambda a, b: a > b), ("gte", lambda a, b: a >= b), ("lt", lambda a, b: a < b),
                               ("lte", lambda a, b: a <= b)):
                if rule.HasField(name):
                    bound = getattr(rule, name)
                    if hasattr(bound, "seconds"):
                        bound = duration_pb2.Duration(seconds=bound.seconds, nanos=bound.nanos).ToNanoseconds()
                    assert good(value, bound), f"{at}: {value} is not {name} {bound}"


def main() -> None:
    with open(sys.argv[1]) as f:
        text = f.read()
    pool = load(sys.argv[2:], text)
    rules = Rules(pool)
    message = rules.factory.GetPrototype(pool.FindMessageTypeByName("envoy.config.bootstrap.v3.Bootstrap"))()
    json_format.ParseDict(yaml.safe_load(text), message, descriptor_pool=pool)
    rules.check(message, "bootstrap")
    print(f"{sys.argv[1]}: every field is known, {rules.checked} rules hold")


if __name__ == "__main__":
    main()
