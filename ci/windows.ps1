# SPDX-License-Identifier: MIT
# Every check on Windows: pwsh ci/windows.ps1.  Called by the workflow, as an administrator; by hand it installs
# WinFsp for good.  Needs the GitHub command line (gh) with a token, from which WinFsp and its own tests come.
#
# PYTHON=... uses another Python than python.

$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $true
Set-Location (Split-Path $PSScriptRoot)
$python = if ($env:PYTHON) { $env:PYTHON } else { 'python' }
$work = New-Item -ItemType Directory (Join-Path ([IO.Path]::GetTempPath()) "xloop-ci-$PID")
$env:PYTHONUNBUFFERED = '1'

# WinFsp, and its test program, of one release.
$release = 'v2.1'
gh release download $release -R winfsp/winfsp -p 'winfsp-2*.msi' -O "$work\winfsp.msi"
gh release download $release -R winfsp/winfsp -p 'winfsp-tests-*.zip' -O "$work\winfsp-tests.zip"
$installer = Start-Process -NoNewWindow -Wait -PassThru msiexec "/i $work\winfsp.msi /qn INSTALLLEVEL=1000"
if ($installer.ExitCode) { throw "WinFsp's installer ended with status $($installer.ExitCode)" }
Expand-Archive "$work\winfsp-tests.zip" "$work\winfsp-tests"
Copy-Item "${env:ProgramFiles(x86)}\WinFsp\bin\winfsp-x64.dll" "$work\winfsp-tests"

# What is tested is the wheel, and the wheel that was built from the sdist.
& $python -m venv "$work\venv"
$bin = "$work\venv\Scripts"
& "$bin\python" -m pip install --quiet build
& "$bin\python" -m build --outdir "$work\dist" .
$wheel = (Get-ChildItem "$work\dist\*.whl").FullName
& "$bin\python" -m pip install --quiet "$wheel[test]"

# --confcutdir: tests/conftest.py reads /proc, and is for Linux.
function Invoke-Tests($path) {
    $directory = if (Test-Path -PathType Container $path) { $path } else { Split-Path $path }
    & "$bin\python" -m pytest -p no:cacheprovider --color=no "--confcutdir=$directory" $path
}

& "$bin\xloop" doctor
foreach ($part in 'doctor', 'options', 'registry', 'pathview', 'op_table') {
    Invoke-Tests "tests/unit/test_$part.py"
}
$env:XLOOP_TEST_BACKEND = 'winfsp'
$env:XLOOP_REQUIRE_MOUNT = '1'
Invoke-Tests tests/portable

# WinFsp's own test program against a mount.  Left out is what WinFsp itself leaves out for its sample
# passthrough-fuse (tools/run-tests.bat): its FUSE layer has no such thing.
$leave = ('create_allocation create_notraverse create_backup create_restore create_namelen getfileattr ' +
    'getfileinfo_name delete_access delete_mmap delete_ex rename_flipflop rename_mmap rename_ex ' +
    'setsecurity querydir_namelen exec_rename_dir').Split(' ') | ForEach-Object { "-${_}_test" }
New-Item -ItemType Directory "$work\source" | Out-Null
& "$bin\xloop" mount --backend winfsp "$work\source" X:
try {
    Push-Location X:\
    & "$work\winfsp-tests\winfsp-tests-x64.exe" --external --resilient --case-insensitive-cmp @leave '-reparse*' '-stream*'
}
finally {
    Pop-Location
    & "$bin\xloop" umount X:
}
