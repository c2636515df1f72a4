"""Records authentications and administrative actions in a database."""

from trioserver.telemetry.audit.auditor import Auditor, AuditStatistics
from trioserver.telemetry.audit.entry import KINDS, OUTCOMES, AuditEntry
from trioserver.telemetry.audit.query import MAX_ID, MAX_LIMIT, AuditPage, AuditQuery
from trioserver.telemetry.audit.store import AuditStore

__all__ = [
    "KINDS",
    "MAX_ID",
    "MAX_LIMIT",
    "OUTCOMES",
    "AuditEntry",
    "AuditPage",
    "AuditQuery",
    "AuditStatistics",
    "AuditStore",
    "Auditor",
]
