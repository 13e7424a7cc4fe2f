"""A chat with a node through NEAR AI's own Python SDK, as a program: URL, model, algorithm, "e2ee" or "plain".

It needs nearai-inference-sdk (Python 3.12) and nothing of Nearfield, so that any interpreter can run it. First the SDK
as it is: a node without a TEE must be refused for its quote, and for nothing before that. Then the SDK without the
check of the quote: reports, encryption, JSON and streams, and the signature under each answer are checked by its code.
"""

import asyncio
import importlib
import sys
from typing import Any

ASK = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Grüß Gott ✓"}]


def sdk(name: str) -> Any:
    """A module of the SDK, whose types are not known here."""
    return importlib.import_module(f"nearai_inference_sdk.{name}")


async def without_quotes(fetched: Any, **_: Any) -> Any:
    """In place of verify_direct_model_attestations: a node without a TEE has nothing else for it to check."""
    types = sdk("types.direct")
    reports = tuple(types.VerifiedDirectModelAttestation(
        signer=report.signer, tcb_status="UpToDate", advisory_ids=(), deployment=None,
        deployment_provenance="not_checked", gpu_evidence="not_provided", model_name=report.model_name,
        signing_public_key=sdk("core.attestation_model")._verify_signing_public_key(report))
        for report in fetched.attestations)
    return types.VerifiedDirectModelAttestations(
        serving_attestation=reports[0], attestations=reports, spki_fingerprints=(),
        tls_binding=types.DirectTlsBinding(kind="none"))


async def refused_for_its_quote(url: str, algorithm: str) -> None:
    async with sdk("core.direct_inference_client").DirectInferenceClient(url, signing_algo=algorithm) as client:
        try:
            await client.verify("any")
        except sdk("utils.errors").VerificationError as error:
            assert error.failure.code == "quote.verification_failed", error
        else:
            raise AssertionError("a node without a TEE passed for one that has it")


async def talk(url: str, model: str, algorithm: str, e2ee: bool) -> None:
    direct = sdk("core.direct_inference_client")
    direct.verify_direct_model_attestations = without_quotes
    async with direct.DirectInferenceClient(url, signing_algo=algorithm, e2ee=e2ee) as client:
        asked = {"model": model, "messages": ASK, "max_tokens": 20, "temperature": 0}
        answer = await client.chat.completions.create(**asked)
        assert (await client.verify_response(answer.id)).signature.signer.signing_algo == algorithm
        text, found = "", ""
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            found = chunk.id
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
        await client.verify_response(found)
        assert text and text == answer.choices[0].message.content, (text, answer)


async def main(url: str, model: str, algorithm: str, way: str) -> None:
    await refused_for_its_quote(url, algorithm)
    await talk(url, model, algorithm, way == "e2ee")
    print("the SDK is content")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
