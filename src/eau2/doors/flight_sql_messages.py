"""The messages of Flight SQL: what travels in descriptors, tickets and actions, each within a google.protobuf.Any.

Written from format/FlightSql.proto of Arrow: those that this server knows. They are in a pool of their own, so that
another library in the process may have them too. Needs protobuf, of `eau2[serve]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from eau2.doors.flight_errors import invalid

if TYPE_CHECKING:
    from google.protobuf.message import Message

PACKAGE = "arrow.flight.protocol.sql"
_URL = "type.googleapis.com"

# A field is `name:type`, numbered as it comes; `?` marks one that may be absent, `*` one that repeats.
_MESSAGES = {
    "CommandGetSqlInfo": "info:uint32*",
    "CommandGetXdbcTypeInfo": "data_type:int32?",
    "CommandGetCatalogs": "",
    "CommandGetDbSchemas": "catalog:string? db_schema_filter_pattern:string?",
    "CommandGetTables": "catalog:string? db_schema_filter_pattern:string? table_name_filter_pattern:string?"
    " table_types:string* include_schema:bool",
    "CommandGetTableTypes": "",
    "CommandGetPrimaryKeys": "catalog:string? db_schema:string? table:string",
    "CommandGetExportedKeys": "catalog:string? db_schema:string? table:string",
    "CommandGetImportedKeys": "catalog:string? db_schema:string? table:string",
    "CommandGetCrossReference": "pk_catalog:string? pk_db_schema:string? pk_table:string"
    " fk_catalog:string? fk_db_schema:string? fk_table:string",
    "CommandStatementQuery": "query:string transaction_id:bytes?",
    "CommandStatementUpdate": "query:string transaction_id:bytes?",
    "CommandPreparedStatementQuery": "prepared_statement_handle:bytes",
    "CommandPreparedStatementUpdate": "prepared_statement_handle:bytes",
    "SubstraitPlan": "plan:bytes version:string",
    "CommandStatementSubstraitPlan": "plan:SubstraitPlan transaction_id:bytes?",
    "TicketStatementQuery": "statement_handle:bytes",
    # Enumerations travel as int32: what is none of theirs is ours to refuse.
    "TableDefinitionOptions": "if_not_exist:int32 if_exists:int32",
    "CommandStatementIngest": "table_definition_options:TableDefinitionOptions table:string schema:string?"
    " catalog:string? temporary:bool transaction_id:bytes?",
    "DoPutUpdateResult": "record_count:int64",
    "DoPutPreparedStatementResult": "prepared_statement_handle:bytes?",
    "ActionCreatePreparedStatementRequest": "query:string transaction_id:bytes?",
    "ActionCreatePreparedStatementResult": "prepared_statement_handle:bytes dataset_schema:bytes"
    " parameter_schema:bytes is_update:bool?",
    "ActionClosePreparedStatementRequest": "prepared_statement_handle:bytes",
    "ActionCreatePreparedSubstraitPlanRequest": "plan:SubstraitPlan transaction_id:bytes?",
    "ActionBeginTransactionRequest": "",
    "ActionBeginSavepointRequest": "transaction_id:bytes name:string",
    "ActionEndTransactionRequest": "transaction_id:bytes action:int32",
    "ActionEndSavepointRequest": "savepoint_id:bytes action:int32",
    "ActionCancelQueryRequest": "info:bytes",
    "ActionCancelQueryResult": "result:int32",
}


def unpacked(data: bytes) -> tuple[str, Any] | None:
    """Return the name of the message in `data` and the message; None where it is no Any of one of ours.

    ArrowInvalid where it says that it is one of ours and is not.
    """
    around = any_pb2.Any()
    try:
        around.ParseFromString(data)
    except DecodeError:
        return None
    package, _, name = around.type_url.rpartition("/")[2].rpartition(".")
    if package != PACKAGE or name not in _CLASSES:
        return None
    message = _CLASSES[name]()
    try:
        message.ParseFromString(around.value)
    except DecodeError:
        raise invalid(f"what is sent as {name} is none") from None
    return name, message


def packed(name: str, **fields: object) -> bytes:
    """Return an Any of the message `name`."""
    around = any_pb2.Any(type_url=f"{_URL}/{PACKAGE}.{name}", value=plain(name, **fields))
    data: bytes = around.SerializeToString()
    return data


def plain(name: str, **fields: object) -> bytes:
    """Return the message `name`, as results have it: in no Any."""
    data: bytes = _CLASSES[name](**fields).SerializeToString()
    return data


def _described() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="eau2/flight_sql.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields.split(), 1):
            _add_field(message, number, text)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, number: int, text: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    name, _, kind = text.rstrip("?*").partition(":")
    field = message.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
    if kind in _MESSAGES:
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    if text.endswith("*"):
        field.label = kinds.LABEL_REPEATED
    if text.endswith("?"):  # proto3 has each in a `oneof` of its own
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")


def _made() -> dict[str, type[Message]]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_described().SerializeToString())
    named = pool.FindFileByName("eau2/flight_sql.proto").message_types_by_name
    return {name: message_factory.GetMessageClass(named[name]) for name in _MESSAGES}


_CLASSES = _made()
