-- One row for each payment on each library item: a proposal for a PeopleSoft query, in SQL to be read beside PeopleSoft
-- Query, where the same records, criteria and heading texts are entered. It was never run in a PeopleSoft.
--
-- DELIVERED, by record definitions or Oracle's documentation:
--   ITEM_SF      BUSINESS_UNIT, COMMON_ID, SA_ID_TYPE ('P' person), ITEM_NBR, ITEM_TYPE, REF1_DESCR
--   PAYMENT_TBL  PAYMENT_ID_NBR, POSTED_DATE (shown by the delivered view SSF_SS_POST_PAY)
--   ITEM_XREF    XREF_AMT (Oracle: Understanding Student Financials Table Relationships)
-- SEEN IN PUBLIC SOURCES, not in a delivered definition:
--   ITEM_SF      ITEM_TYPE_CD ('P' payment, 'W' waiver, 'X' write-off, 'F' financial aid), PAYMENT_ID_NBR
-- NOT VERIFIED, look them up before using this:
--   ITEM_XREF    ITEM_NBR_CHARGE, ITEM_NBR_PAYMENT, and that it is keyed by BUSINESS_UNIT, COMMON_ID, SA_ID_TYPE
--   PAYMENT_TBL  that it is keyed by BUSINESS_UNIT, COMMON_ID, SA_ID_TYPE, PAYMENT_ID_NBR
--   that a payment posted to several items has one ITEM_XREF row, or more, for each
--
-- :1 business unit, :2 and :3 the library's first and last item type.

SELECT
    P.PAYMENT_ID_NBR AS "Payment ID",
    C.COMMON_ID      AS "Emplid",
    C.REF1_DESCR     AS "Reference Number",
    SUM(X.XREF_AMT)  AS "Paid Amount",
    T.POSTED_DATE    AS "Date Paid"
FROM PS_ITEM_SF C                                   -- the charge
JOIN PS_ITEM_XREF X
  ON X.BUSINESS_UNIT = C.BUSINESS_UNIT AND X.COMMON_ID = C.COMMON_ID AND X.SA_ID_TYPE = C.SA_ID_TYPE
 AND X.ITEM_NBR_CHARGE = C.ITEM_NBR
JOIN PS_ITEM_SF P                                   -- the payment's own item
  ON P.BUSINESS_UNIT = X.BUSINESS_UNIT AND P.COMMON_ID = X.COMMON_ID AND P.SA_ID_TYPE = X.SA_ID_TYPE
 AND P.ITEM_NBR = X.ITEM_NBR_PAYMENT
JOIN PS_PAYMENT_TBL T
  ON T.BUSINESS_UNIT = P.BUSINESS_UNIT AND T.COMMON_ID = P.COMMON_ID AND T.SA_ID_TYPE = P.SA_ID_TYPE
 AND T.PAYMENT_ID_NBR = P.PAYMENT_ID_NBR
WHERE C.BUSINESS_UNIT = :1
  AND C.SA_ID_TYPE = 'P'
  AND C.ITEM_TYPE BETWEEN :2 AND :3
  AND C.REF1_DESCR LIKE 'ALMA%'                     -- sfs.reference_prefix
  AND P.ITEM_TYPE_CD = 'P'                          -- the campus decides about 'F', 'W' and 'X'
GROUP BY P.PAYMENT_ID_NBR, C.COMMON_ID, C.REF1_DESCR, T.POSTED_DATE
HAVING SUM(X.XREF_AMT) > 0
ORDER BY T.POSTED_DATE, P.PAYMENT_ID_NBR
