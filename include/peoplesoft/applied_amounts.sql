-- One row for each library item, with what it comes to and what is applied to it now: a proposal for a PeopleSoft query,
-- in SQL to be read beside PeopleSoft Query, where the same record, criteria and heading texts are entered. It was never
-- run in a PeopleSoft.
--
-- DELIVERED, by record definitions or Oracle's documentation:
--   ITEM_SF      BUSINESS_UNIT, COMMON_ID, SA_ID_TYPE ('P' person), ITEM_TYPE, ITEM_AMT, APPLIED_AMT, ITEM_BALANCE,
--                REF1_DESCR, ITEM_NBR
-- SEEN IN PUBLIC SOURCES, not in a delivered definition:
--   ITEM_SF      ITEM_EFFECTIVE_DT
--
-- :1 business unit, :2 and :3 the library's first and last item type.
--
-- No window of dates or terms and no criterion on amount, balance or status: an item that is missing here counts as not
-- paid, and as never loaded. Newest first: where the number of rows is limited, old items are cut off, and that is
-- noticed. No join that could show an item twice.

SELECT
    A.COMMON_ID    AS "Emplid",
    A.REF1_DESCR   AS "Reference Number",
    A.ITEM_NBR     AS "Item Number",
    A.APPLIED_AMT  AS "Applied Amount",
    A.ITEM_AMT     AS "Item Amount",
    A.ITEM_BALANCE AS "Item Balance"
FROM PS_ITEM_SF A
WHERE A.BUSINESS_UNIT = :1
  AND A.SA_ID_TYPE = 'P'
  AND A.ITEM_TYPE BETWEEN :2 AND :3
  AND A.REF1_DESCR LIKE 'ALMA%'                     -- sfs.reference_prefix
ORDER BY A.ITEM_EFFECTIVE_DT DESC, A.ITEM_NBR DESC
